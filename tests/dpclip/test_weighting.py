"""Weights against their formulas, on ordinary and nasty norms."""

from __future__ import annotations

import math

import pytest
import torch

from dpclip import chain, clip, clip_to_min, normalize, per_layer, quantile, uniform
from dpclip.streams import seeded
from dpclip.types import Stats

NORMS = torch.tensor([0.5, 2.0, 4.0, 0.0, math.nan, math.inf], dtype=torch.float64)
RULES = [
    uniform(),
    clip(1.0),
    normalize(0.1),
    clip_to_min(),
    quantile(0.5),
    quantile(0.5, count_noise=1.0),
    per_layer(clip(1.0)),
    per_layer(quantile(0.5)),
    chain(clip(1.0), clip_to_min()),
    chain(normalize(0.1), quantile(0.5)),
]


def stats(norms, divisor=None):
    norms = torch.as_tensor(norms)
    layers = torch.stack([0.6 * norms, 0.8 * norms])
    size = torch.ones(len(norms), dtype=torch.int64)
    return Stats(norms, layers, size, norms.isfinite(), divisor or float(len(norms)))


def weigh(rule, norms, divisor=None):
    state = rule.init([torch.Size([2]), torch.Size([3])])
    return rule.weigh(stats(norms, divisor), state)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.label)
def test_finite_groups_get_finite_weights_whatever_the_others_are(rule):
    weights, state = weigh(rule, NORMS)
    assert weights[..., :4].isfinite().all() and (weights[..., :4] >= 0).all()
    if rule.facts(state).local:
        alone, _ = weigh(rule, NORMS[:1])
        assert torch.equal(weights[..., :1], alone)
    none, _ = weigh(rule, torch.zeros(0))
    assert none.shape[-1] == 0


def test_formulas():
    assert weigh(uniform(), NORMS)[0].tolist()[:4] == [1] * 4
    assert weigh(clip(1.0), NORMS)[0].tolist()[:4] == [1, 0.5, 0.25, 1]
    assert weigh(normalize(0.5, 2.0), NORMS)[0].tolist()[:4] == [2, 0.8, pytest.approx(2 / 4.5), 4]
    assert weigh(clip_to_min(), NORMS[:3])[0].tolist() == [1, 0.25, 0.125]
    assert weigh(clip_to_min(), NORMS)[0].tolist()[:4] == [0, 0, 0, 0]
    assert weigh(chain(clip(1.0), clip_to_min()), NORMS[:3])[0].tolist() == [1, 0.25, 0.125]
    layered = weigh(per_layer(clip(0.8)), NORMS[:3])[0]
    assert torch.allclose(layered, torch.tensor([[1, 0.8 / 1.2, 1 / 3], [1, 0.5, 0.25]]).double())


def test_quantile_steers_to_its_target():
    rule = quantile(0.5, bound=20.0, rate=0.3)
    state = rule.init([])
    norms = torch.arange(1.0, 12.0)
    for _ in range(60):
        _, state = rule.weigh(stats(norms), state)
        state = rule.finish(state, None)
    assert 5.0 <= float(state["bound"]) <= 7.0


def test_quantile_is_andrew_et_al():
    """C <- C exp(-rate (b - q)) with b the fraction at most C."""
    rule = quantile(0.3, bound=2.0, rate=0.5)
    _, state = weigh(rule, [0.5, 2.0, 4.0, 5.0], 4.0)
    assert float(rule.finish(state, None)["bound"]) == pytest.approx(
        2 * math.exp(-0.5 * (0.5 - 0.3))
    )


def test_quantile_over_several_backwards_counts_all():
    rule = quantile(0.3, bound=2.0, rate=0.5)
    _, once = weigh(rule, [0.5, 2.0, 4.0, 5.0], 4.0)
    state = rule.init([])
    for part in ([0.5, 2.0], [4.0, 5.0]):
        _, state = rule.weigh(stats(part, 4.0), state)
    assert torch.equal(rule.finish(state, None)["bound"], rule.finish(once, None)["bound"])


def test_noised_count_draws_from_the_generator_only():
    rule = quantile(0.3, count_noise=2.0)
    _, state = weigh(rule, [0.5, 2.0])
    a, b = (rule.finish(state, seeded(s, torch.device("cpu")).noise)["bound"] for s in (1, 2))
    again = rule.finish(state, seeded(1, torch.device("cpu")).noise)["bound"]
    assert torch.equal(a, again) and not torch.equal(a, b)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: clip(0.0),
        lambda: clip(math.nan),
        lambda: normalize(0.0),
        lambda: normalize(1.0, radius=-1.0),
        lambda: quantile(0.0),
        lambda: quantile(1.0),
        lambda: quantile(0.5, bound=0.0),
        lambda: quantile(0.5, rate=0.0),
        lambda: quantile(0.5, count_noise=0.0),
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="expected a"):
        wrong()
