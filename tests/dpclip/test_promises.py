"""False claims are found, true ones pass."""

from __future__ import annotations

import math
import time

import pytest
import torch

from dpclip import chain, clip, clip_to_min, normalize, per_layer, quantile, uniform
from dpclip.promises import check
from dpclip.types import Weighting, WeightingFacts

SHAPES = [torch.Size([4, 3]), torch.Size([4]), torch.Size([2, 4]), torch.Size([])]


def rule(weigh, bound=1.0, local=True, count_noise=None, state=None, **more):
    """A weighting as users write them; `weigh` returns weights, or weights and a state."""

    def both(stats, before):
        made = weigh(stats, before)
        return made if isinstance(made, tuple) else (made, before)

    def facts(state):
        c = bound(state) if callable(bound) else bound
        return WeightingFacts(c, local, "it says so", count_noise)

    return Weighting("mine()", lambda _: dict(state or {}), both, facts, **more)


def clipped(norms, c=1.0):
    return (c / norms).clamp(max=1.0)


RULES = [
    uniform(),
    clip(1.0),
    clip(1e-4),
    clip(300.0),
    normalize(0.01),
    normalize(1e-6, radius=5.0),
    clip_to_min(),
    quantile(0.5),
    quantile(0.9, bound=30.0, rate=1.0),
    quantile(0.5, count_noise=1.0),
    quantile(0.2, bound=0.01, rate=0.7, count_noise=40.0),
    quantile(0.5, count_noise=0.01),
    per_layer(clip(0.5)),
    per_layer(normalize(0.1)),
    per_layer(uniform()),
    per_layer(clip_to_min()),
    per_layer(quantile(0.5)),
    per_layer(quantile(0.5, count_noise=3.0)),
    chain(clip(9.0), clip(0.4)),
    chain(uniform(), normalize(0.1, radius=3.0)),
    chain(normalize(0.1), quantile(0.5, count_noise=2.0)),
    chain(per_layer(clip(1.0)), per_layer(clip(0.1))),
    chain(clip(2.0), quantile(0.5, count_noise=2.0)),
    chain(quantile(0.5, count_noise=2.0), clip(2.0)),
    chain(clip(3.0), clip_to_min()),
    chain(clip_to_min(), clip(1.0)),
    chain(per_layer(clip(0.1)), clip_to_min()),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighting", RULES, ids=lambda r: r.label)
def test_all_weightings_pass(weighting, dtype):
    torch.set_default_dtype(dtype)
    for layers, seed in ((4, 0), (1, 1), (4, 2)):
        check(weighting, SHAPES[:layers], seed)
    check(weighting)


def test_true_claims_of_users_pass():
    check(rule(lambda s, _: torch.where(s.norms > 1, 0.0, 1.0)))  # too long ones are left out
    check(rule(lambda s, _: -clipped(s.norms)))  # unlearning
    check(rule(lambda s, _: clipped(s.norms, 2.0) / 2))
    check(rule(lambda s, _: clipped(s.norms) * (s.sizes > 1)))
    check(rule(lambda s, _: clipped(s.norms, s.divisor) / s.divisor))  # D is public
    check(rule(lambda s, _: torch.zeros_like(s.norms), bound=0.0))
    halving = {
        "weigh": lambda s, state: clipped(s.norms, float(state["c"])),
        "bound": lambda state: float(state["c"]),
        "finish": lambda state, _: {"c": state["c"] / 2},
        "state": {"c": torch.tensor(1.0)},
    }
    check(rule(**halving))


MEMORY = {"c": torch.tensor(1.0), "seen": torch.tensor(0.0)}
"""State of the rules below: the bound of this step, and what the groups of the step add up to."""


def current(state):
    return float(state["c"])


def remembered(stats, state, what):
    return clipped(stats.norms, current(state)), {"c": state["c"], "seen": what.to(state["c"])}


def total(stats):
    """A bounded function of the norms that is no count."""
    return clipped(stats.norms).masked_fill(~stats.valid, 0.0).sum() / stats.divisor


def count(stats, state):
    small = (stats.norms <= state["c"]) & stats.valid
    return (small.sum() - stats.valid.sum() / 2) / stats.divisor


def steered(state, noise=0.0):
    c = state["c"] * torch.exp(-0.2 * (state["seen"] + noise))
    return {"c": c, "seen": torch.zeros(())}


FALSE = {
    "longer than claimed": (
        rule(lambda s, _: clipped(s.norms) * (s.norms + 1) / s.norms.clamp(min=1e-9)),
        r"no weighted group is longer than 1, but .* norm .* with weight .* long.*bound=None",
    ),
    "a little longer": (
        rule(lambda s, _: torch.where(s.norms <= 1.005, 1.0, 1 / s.norms)),
        "longer than 1",
    ),
    "a little longer in every layer": (
        per_layer(rule(lambda s, _: torch.where(s.norms <= 1.005, 1.0, 1 / s.norms))),
        r"longer than 2, but .* \(layers 1.001\)",
    ),
    "each layer as long as the whole": (
        rule(lambda s, _: clipped(s.layer_norms)),
        r"longer than 1, but .* is 2 long",
    ),
    "only if one layer holds all": (
        rule(lambda s, _: (1 / s.layer_norms.amin(0)).clamp(max=1.0)),
        "longer than 1",
    ),
    "negative and long": (rule(lambda s, _: -2 * clipped(s.norms)), "longer than 1"),
    "long in company, and not said to be local": (
        rule(lambda s, _: clipped(s.norms) * (1 + len(s.norms) / 10), local=False),
        "longer than 1",
    ),
    "long alone, and not said to be local": (
        rule(lambda s, _: clipped(s.norms) * (2 if len(s.norms) == 1 else 1), local=False),
        "longer than 1",
    ),
    "vanishing squares": (normalize(1e-30), "longer than 1, but a group of norm 0 "),
    "infinite": (rule(lambda s, _: clipped(s.norms), bound=math.inf), "claims the bound inf"),
    "not a number": (rule(lambda s, _: clipped(s.norms), bound=math.nan), "claims the bound nan"),
    "longer in later steps": (
        rule(
            lambda s, state: clipped(s.norms, current(state)),
            finish=lambda state, _: {"c": state["c"] * 1.1},
            state={"c": torch.tensor(1.0)},
        ),
        "longer than 1",
    ),
    "the mean": (
        rule(lambda s, _: clipped(s.norms) / (1 + s.norms[s.valid].log1p().mean())),
        r"local=True, that the weight .* beside \d+ others \(norms .* State local=False",
    ),
    "the smallest": (
        rule(lambda s, _: clipped(s.norms, min([1.0, *s.norms[s.norms > 0].tolist()]))),
        "local=True, that the weight",
    ),
    "how many there are": (rule(lambda s, _: clipped(s.norms) / len(s.norms)), "local=True"),
    "sizes of others": (rule(lambda s, _: clipped(s.norms) / (1 + s.sizes.sum())), "local=True"),
    "whether others are invalid": (
        rule(lambda s, _: clipped(s.norms) * (0.5 if s.valid.all() else 1.0)),
        "local=True",
    ),
    "the place in the batch": (
        rule(lambda s, _: clipped(s.norms) / (1 + torch.arange(len(s.norms)))),
        "local=True",
    ),
    "the sixth place in the batch": (
        rule(lambda s, _: clipped(s.norms) / (1 + (torch.arange(len(s.norms)) == 5))),
        "local=True",
    ),
    "the group behind it": (
        rule(lambda s, _: clipped(s.norms) / (1 + (s.norms.roll(-1) > s.norms))),
        "local=True",
    ),
    "unbounded, but not local": (
        rule(lambda s, _: 1 / (1 + s.sizes.sum()).expand_as(s.norms), bound=None),
        "local=True",
    ),
    "a bound that is the largest norm": (
        rule(
            lambda s, _: (
                torch.ones_like(s.norms),
                {"c": s.norms[s.valid].amax() if bool(s.valid.any()) else torch.ones(())},
            ),
            bound=current,
            state={"c": torch.tensor(1.0)},
        ),
        "another batch at the same state makes it",
    ),
    "steered without noise": (
        rule(
            lambda s, state: remembered(s, state, count(s, state)),
            bound=current,
            finish=lambda state, _: steered(state),
            state=MEMORY,
        ),
        r"without a noised count, but its state 'c' after a step is [\d.]+ after some groups",
    ),
    "a memory that nothing uses yet": (
        rule(
            lambda s, state: remembered(s, state, state["seen"] + total(s)),
            bound=current,
            state=MEMORY,
        ),
        "without a noised count, but its state 'seen'",
    ),
    "a memory of the last batch's size": (
        rule(lambda s, _: (clipped(s.norms), {"last": s.norms})),
        "without a noised count",
    ),
    "noise that is not stated": (
        rule(
            lambda s, state: remembered(s, state, count(s, state)),
            bound=current,
            finish=lambda state, stream: steered(state, stream.normal(state["c"], 1.0)),
            state=MEMORY,
        ),
        "without a noised count",
    ),
    "noise that is not drawn": (
        rule(
            lambda s, state: remembered(s, state, count(s, state)),
            bound=current,
            count_noise=1.0,
            finish=lambda state, _: steered(state),
            state=MEMORY,
        ),
        "a count of groups under noise of std 1, but one group moves .*, and the noise by 0",
    ),
    "noise that is too small": (
        rule(
            lambda s, state: remembered(s, state, count(s, state) * s.divisor),
            bound=current,
            count_noise=10.0,
            finish=lambda state, stream: steered(state, stream.normal(state["c"], 1.0)),
            state=MEMORY,
        ),
        "Draw noise in finish",
    ),
    "nothing to put noise on": (
        rule(lambda s, _: clipped(s.norms), count_noise=1.0),
        "count of groups under noise of std 1, but one group moves .* by 0, and the noise by 0",
    ),
    "noise on a sum that is no count": (
        rule(
            lambda s, state: remembered(s, state, total(s)),
            bound=current,
            count_noise=1.0,
            finish=lambda state, stream: steered(state, stream.normal(state["c"], 1.0)),
            state=MEMORY,
        ),
        r"takes it to \d different states.*Release a count",
    ),
    "a leak beside the noised count": (
        rule(
            lambda s, state: quantile(0.5, count_noise=1.0).weigh(s, state),
            bound=lambda state: float(state["bound"]),
            count_noise=1.0,
            finish=lambda state, stream: (
                quantile(0.5, count_noise=1.0).finish(state, stream) | {"raw": state["tally"]}
            ),
            state={
                "bound": torch.tensor(1.0),
                "tally": torch.zeros(()),
                "divisor": torch.ones(()),
            },
        ),
        "Draw noise in finish, .* and keep nothing else",
    ),
    "not a number for a zero norm": (
        rule(lambda s, _: clipped(s.norms) * s.norms / s.norms),
        "not finite: a group of norm 0 .* Mind zero norms",
    ),
    "infinite weight for a zero norm": (rule(lambda s, _: 1 / s.norms), "not finite: .* norm 0 "),
    "overflow": (
        rule(lambda s, _: clipped(s.norms.float() ** 3 / (1 + s.norms.float() ** 3) * s.norms)),
        r"not finite: a group of norm [\d.]+e\+\d+ ",
    ),
    "one number for all": (rule(lambda s, _: torch.ones(())), r"shape \(\) for \d+ groups"),
    "a column": (
        rule(lambda s, _: clipped(s.norms)[:, None]),
        r"of shape \(\d+, 1\) for \d+ groups and 4 parameters: expected",
    ),
    "squeezed for one group": (rule(lambda s, _: clipped(s.norms).squeeze()), r"shape \(\) for 1"),
    "carries too little": (
        rule(
            lambda s, state: clip_to_min().weigh(s, state),
            bound=None,
            local=False,
            finish=lambda _state, _stream: {"low": torch.tensor(math.inf)},
            state={"low": torch.tensor(math.inf)},
            carry=lambda _before, _after: torch.ones(()),
        ),
        "with carry .* in one pass has weight .* over three",
    ),
    "remembers the last pass only": (
        rule(
            lambda s, state: remembered(s, state, count(s, state)),
            bound=current,
            local=False,
            finish=lambda state, _: steered(state),
            state=MEMORY,
            carry=lambda _before, _after: torch.ones(()),
        ),
        "its state 'c' is .* after a step of one pass",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FALSE)
def test_false_claims_are_found(name, dtype):
    torch.set_default_dtype(dtype)
    weighting, words = FALSE[name]
    with pytest.raises(ValueError, match=words) as raised:
        check(weighting, SHAPES)
    assert str(raised.value).startswith(weighting.label)


def test_the_counterexample_is_real():
    """What the message says can be recomputed from it."""
    import re

    weighting = rule(lambda s, _: clipped(s.norms, 3.0))
    with pytest.raises(ValueError, match="longer than 1") as raised:
        check(weighting)
    found = re.search(r"norm (\S+) .* with weight (\S+) is (\S+) long", str(raised.value))
    assert found is not None
    norm, weight, length = map(float, found.groups())
    assert norm * weight == pytest.approx(length, rel=1e-3) and length > 1
    assert weight == pytest.approx(min(1.0, 3.0 / norm), rel=1e-3)


def test_nothing_is_left_behind():
    """Neither the global generator nor a state that a rule hands out is changed."""
    first = {"c": torch.ones(())}

    def weigh(stats, state):
        state["c"] += 1.0  # in place, as it should not be
        torch.rand(3)
        return clipped(stats.norms)

    before = torch.random.get_rng_state()
    check(rule(weigh, finish=lambda state, _: {"c": torch.ones(())}, state=first, bound=1.0))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first["c"] == 1.0
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("weighting", [clip(1.0), per_layer(clip(1.0))], ids=lambda r: r.label)
def test_it_takes_no_time(weighting):
    """It runs whenever an engine is built. In processor time, ten times what it takes."""
    check(weighting)
    spent = []
    for _ in range(10):
        start = time.process_time()
        check(weighting, SHAPES)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.05
