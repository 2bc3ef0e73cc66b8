"""The constructed worst cases: what one record really moves, against what is claimed.

At the level of group vectors, with the package's own groups and weights and without a model.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpclip import (
    by_key,
    chain,
    clip,
    clip_to_min,
    micro_batches,
    normalize,
    per_core,
    per_layer,
    per_sample,
    quantile,
    uniform,
)
from dpclip.sensitivity import claim, effective_multiplier
from dpclip.streams import seeded
from dpclip.types import GroupingFacts, Members, Stats, WeightingFacts

C = 1.0


def total(rows, slots, weighting, size=None):
    """Sum of weighted group means of the records' gradients [B, d]."""
    names = slots.unique()
    groups = torch.stack([rows[slots == s].sum(0) for s in names]) if len(rows) else rows
    held = torch.tensor([int((slots == s).sum()) for s in names])
    groups = groups / (held[:, None] if size is None else size)
    layers = torch.stack([groups[:, :1].norm(dim=1), groups[:, 1:].norm(dim=1)])
    norms = layers.norm(dim=0)
    stats = Stats(norms, layers, held, norms.isfinite(), float(len(groups)))
    weights, _ = weighting.weigh(stats, weighting.init([torch.Size([1]), torch.Size([1])]))
    if weights.dim() == 1:
        return (weights[:, None] * groups).sum(0)
    return torch.cat([(weights[0] * groups[:, 0]).sum()[None], weights[1] @ groups[:, 1:]])


def moved(rows, grouping, weighting, leaver, slots=None, size=None):
    """How far the sum moves when one record leaves; ids of the others stay."""
    ids = torch.arange(len(rows))
    stay = ids != leaver
    if slots is None:
        with_all = grouping.assign(Members(len(rows), ids, 0, None))
        without = grouping.assign(Members(int(stay.sum()), ids[stay], 0, None))
    else:
        with_all, without = slots, slots[stay]
    a = total(rows, with_all, weighting, size)
    b = total(rows[stay], without, weighting, size)
    return float((a - b).norm())


def line(values):
    return torch.tensor([[v, 0.0] for v in values])


def test_per_sample_reaches_c():
    assert moved(line([50.0, 1.0, -3.0]), per_sample(), clip(C), 0) == pytest.approx(C)


def test_a_pinned_record_reaches_2c():
    """Its group lies at +C with it and at -C without it."""
    slots = torch.tensor([0, 0, 1])
    rows = line([100.0, -40.0, 3.0])
    assert moved(rows, None, clip(C), 0, slots, size=2) == pytest.approx(2 * C)
    keyed = by_key(lambda i: i // 2)
    assert moved(rows, keyed, clip(C), 0, size=2) == pytest.approx(2 * C)


@pytest.mark.parametrize("groups", [8, 16])
@pytest.mark.parametrize("how", ["micro", "core"])
def test_by_position_reaches_2gc(groups, how):
    """Alternating signs and decreasing sizes: a leaver turns every group around."""
    rows = line([(-1) ** i * (1000.0 - 10 * i) for i in range(2 * groups)])
    grouping = micro_batches(2) if how == "micro" else per_core(groups)
    found = moved(rows, grouping, clip(C), 0)
    if how == "core":  # the last cores lose a record instead
        assert found > groups * C
    else:
        assert found == pytest.approx(2 * groups * C)
    assert claim(grouping.facts, clip(C).facts({})).sensitivity is None


def test_clip_to_min_reaches_r_minus_1():
    rows = line([1e-9, *[1.0] * 31])
    assert moved(rows, per_sample(), clip_to_min(), 0) == pytest.approx(31 * C)
    assert claim(per_sample().facts, clip_to_min().facts({})).sensitivity is None


LOCAL = [
    clip(C),
    normalize(0.01, radius=2.0),
    per_layer(clip(C)),
    per_layer(normalize(0.1)),
    chain(normalize(0.1, radius=5.0), clip(0.7)),
    chain(clip(3.0), per_layer(clip(0.5))),
    quantile(0.5, bound=0.8, count_noise=1.0),
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rule=st.sampled_from(LOCAL),
    kind=st.sampled_from(["sample", "random", "fixed", "record", "user"]),
    seed=st.integers(0, 10**6),
    scale=st.floats(0.01, 100.0),
)
def test_no_claim_is_ever_exceeded(rule, kind, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(12, 2, generator=generator, dtype=torch.float64).exp()
    rows = rows * torch.randn(12, 2, generator=generator, dtype=torch.float64).sign()
    grouping, slots, size, stays = per_sample(), None, 1.0, 1
    if kind == "random":
        grouping, size = micro_batches(4, slots="random"), 4.0
        slots = grouping.assign(Members(12, None, 3, seeded(seed, torch.device("cpu")).draws))
    elif kind == "fixed":
        grouping, size = per_core(3, slots="fixed"), 4.0
    elif kind == "record":
        grouping, size = by_key(lambda i: i % 3), 4.0
    elif kind == "user":
        grouping, size, stays = by_key(lambda i: i // 4, unit="user"), None, 4
    state = rule.init([torch.Size([1]), torch.Size([1])])
    claimed = claim(grouping.facts, rule.facts(state))
    assert claimed.sensitivity is not None
    if stays == 4:  # a whole user leaves
        ids = torch.arange(12)
        groups = grouping.assign(Members(12, ids, 0, None))
        stay = groups != 1
        found = float((total(rows, groups, rule) - total(rows[stay], groups[stay], rule)).norm())
    else:
        found = moved(rows, grouping, rule, seed % 12, slots, size)
    assert found <= claimed.sensitivity * (1 + 1e-9)


def test_the_table():
    """The radii that each grouping claims, times the bound."""
    for grouping, radii in (
        (per_sample(), 1.0),
        (micro_batches(4, slots="random"), 2.0),
        (per_core(4, slots="fixed"), 2.0),
        (by_key(str), 2.0),
        (by_key(str, unit="user"), 1.0),
    ):
        made = claim(grouping.facts, clip(0.3).facts({}))
        assert made.sensitivity == made.noise_scale == pytest.approx(0.3 * radii)
        assert grouping.facts.unit == ("user" if "user" in grouping.label else "record")
    for grouping in (micro_batches(4), per_core(4)):
        made = claim(grouping.facts, clip(0.3).facts({}))
        assert made.sensitivity is None and made.noise_scale == 0.3
    for rule in (uniform(), clip_to_min(), per_layer(uniform()), chain(uniform(), clip_to_min())):
        made = claim(per_sample().facts, rule.facts(rule.init([torch.Size([1])] * 3)))
        assert made.sensitivity is None and made.noise_scale is None


def test_bounds_of_compound_rules():
    shapes = [torch.Size([1])] * 4
    for rule, bound in (
        (per_layer(clip(0.5)), 1.0),
        (chain(clip(9.0), clip(0.4)), 0.4),
        (chain(uniform(), normalize(0.1, radius=3.0)), 3.0),
        (chain(per_layer(clip(1.0)), per_layer(clip(0.1))), 0.2),
        (quantile(0.5, bound=0.7, count_noise=1.0), 0.7),
    ):
        facts = rule.facts(rule.init(shapes))
        assert facts.local and facts.bound == pytest.approx(bound)
    for rule in (
        quantile(0.5),
        chain(clip_to_min(), clip(1.0)),
        chain(quantile(0.5), clip(1.0)),
        chain(quantile(0.5, count_noise=1.0), clip(1.0)),
        per_layer(quantile(0.5, count_noise=1.0)),
    ):
        facts = rule.facts(rule.init(shapes))
        assert not facts.local
        assert claim(per_sample().facts, facts).sensitivity is None


def test_effective_multiplier():
    """Andrew et al. 2021, Theorem 1: z = (z_rows^-2 + (2 sigma_b)^-2)^(-1/2)."""
    facts = quantile(0.5, count_noise=3.0).facts({"bound": torch.tensor(1.0)})
    single = claim(per_sample().facts, facts)
    assert single.count_shift == pytest.approx(1 / 6)
    assert effective_multiplier(2.0, single.count_shift) == pytest.approx((1 / 4 + 1 / 36) ** -0.5)
    assert claim(micro_batches(2, slots="random").facts, facts).count_shift == pytest.approx(1 / 3)
    assert effective_multiplier(0.0, 0.5) == 0.0
    assert effective_multiplier(2.0, 0.0) == 2.0


def test_count_of_clipped_groups_moves_as_claimed():
    """By 1/2 for a row that appears, by 1 for a group that changes sides."""
    rule = quantile(0.5, bound=1.0, count_noise=1.0)
    state = rule.init([torch.Size([1])])

    def tally(norms):
        n = torch.tensor(norms)
        stats = Stats(n, n[None], torch.ones(len(n)), torch.ones(len(n), dtype=torch.bool), 4.0)
        return float(rule.weigh(stats, state)[1]["tally"])

    assert tally([0.5, 2.0, 3.0]) - tally([2.0, 3.0]) == 0.5
    assert tally([0.5, 2.0]) - tally([3.0, 2.0]) == 1.0


def test_claim_is_data_not_prose():
    made = claim(GroupingFacts(2.0, "why", "4C"), WeightingFacts(0.5, True, "because"))
    assert made.sensitivity == 1.0 and "because and why" in made.because
    assert not math.isnan(made.count_shift)
