"""Whether a weighting keeps what its facts promise, tried on random norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from dpclip.streams import Seeded
from dpclip.types import State, Stats, Stream, Weighting, WeightingFacts

_SHAPES = (torch.Size([3, 2]), torch.Size([3]), torch.Size([1, 3]))
_NEAR = (0.5, 0.9, 0.99, 1.0, 1.001, 1.01, 1.1, 1.5, 2.0, 10.0)  # norms, in units of the bound
_UNSEEN = 1e-18  # a row this long may have norm 0: in float32 the squares of its entries vanish
_DRAWS = 24  # of the noise on a count


class _Weighed(NamedTuple):
    """One call of `weigh`: what it saw, weights [L, G], and what holds afterwards."""

    stats: Stats
    weights: Tensor
    state: State
    facts: WeightingFacts


def check(weighting: Weighting, shapes: Sequence[torch.Size] = _SHAPES, seed: int = 0) -> None:
    """Returns None if no counterexample to the weighting's facts was found.

    Tried are some hundred groups with norms from 1e-18 to 1e18, zeros, ties, NaN, and norms close
    to the claimed bound, at the first state and after two steps:

    - weights are [G] or [L, G], and finite for valid groups;
    - no weighted row is longer than `bound`;
    - if `local`, neither the weight of a row nor the state after a step depends on other rows,
      except through a count of rows, under the noise that `count_noise` states;
    - `carry` makes several backward passes equal to one.

    A rule that needs rows must claim no bound; nothing else is tried.

    A false claim that shows on rare norms only, or after many steps, is not found.

    Args:
        weighting: what to try, on tensors on the CPU, of the default dtype.
        shapes: of the trainable parameters.
        seed: of the norms. The global random state is neither used nor changed.

    Raises:
        ValueError: a counterexample; the message holds it.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        draw = torch.Generator().manual_seed(seed)
        state = weighting.init(shapes)
        if weighting.needs == "rows":
            _check_nothing_claimed(weighting, weighting.facts(state))
            return
        first, other = (_rows(len(shapes), weighting.facts(state), draw) for _ in range(2))
        _check_state(weighting, state, first, other)
        for step, rows in enumerate((first, other)):
            state = weighting.finish(_weigh(weighting, rows, state).state, _source(seed + step))
        last = _rows(len(shapes), weighting.facts(state), draw)
        # A group of norm zero hides what a rule about the smallest norm does with the others.
        _check_state(weighting, state, _some(last, (last.norms != 0).nonzero()[:, 0]), other)
        _check_count(weighting, state, len(shapes))


def _check_nothing_claimed(weighting: Weighting, facts: WeightingFacts) -> None:
    """Raises ValueError for a rule that makes the update itself and claims something about it."""
    if facts.bound is not None:
        raise ValueError(
            f"{weighting.label} needs rows and claims the bound {facts.bound}: a rule that makes "
            "the update itself has no weights that a bound could be tried on. State bound=None."
        )


def _check_state(weighting: Weighting, state: State, rows: Stats, other: Stats) -> None:
    seen = _weigh(weighting, rows, state)
    _check_local(weighting, seen, state, other)
    _check_carry(weighting, seen, state)


def _source(seed: int) -> Stream:
    """Returns what `finish` draws from."""
    return Seeded(np.random.SeedSequence(seed))


# ---- groups that nobody expects ----------------------------------------------------------------


def _rows(layers: int, facts: WeightingFacts, draw: torch.Generator) -> Stats:
    """Returns groups with layer norms [L, G] of many sizes and shapes, in random order."""
    near = torch.tensor(_NEAR, dtype=torch.float64) * (facts.bound or 1.0)
    wide = 10 ** (36 * torch.rand(20, generator=draw, dtype=torch.float64) - 18)
    lengths = torch.cat([wide, near, near])
    shares = torch.rand(layers, len(lengths), generator=draw, dtype=torch.float64)
    shares[:, -len(near) :] = 1.0  # the same in every layer
    shares[1:, :4] = 0.0  # all in one layer
    rows = shares * (lengths / torch.linalg.vector_norm(shares, dim=0))
    odd = rows[:, :3].clone()
    odd[:, 0], odd[0, 1], odd[-1, 2] = 0.0, math.inf, math.nan
    rows = torch.cat([rows, rows[:, 8:12], odd], dim=1)
    # In the precision of models: some rules overflow in single precision only.
    rows = rows[:, torch.randperm(rows.shape[1], generator=draw)].to(torch.get_default_dtype())
    norms = torch.linalg.vector_norm(rows, dim=0)
    sizes = torch.randint(1, 6, norms.shape, generator=draw)
    return Stats(norms, rows, sizes, norms.isfinite(), 24.0)


def _some(stats: Stats, index: Tensor) -> Stats:
    return Stats(
        stats.norms[index],
        stats.layer_norms[:, index],
        stats.sizes[index],
        stats.valid[index],
        stats.divisor,
    )


def _beside(a: Stats, b: Stats) -> Stats:
    return Stats(
        torch.cat([a.norms, b.norms]),
        torch.cat([a.layer_norms, b.layer_norms], dim=1),
        torch.cat([a.sizes, b.sizes]),
        torch.cat([a.valid, b.valid]),
        a.divisor,
    )


# ---- what is promised --------------------------------------------------------------------------


def _weigh(weighting: Weighting, stats: Stats, state: State) -> _Weighed:
    """Returns what a backward pass over these groups gives, from a copy of the state.

    Raises:
        ValueError: weights of a wrong shape, not finite, or larger than the bound allows.
    """
    weights, after = weighting.weigh(stats, {name: value.clone() for name, value in state.items()})
    shape, wanted = tuple(weights.shape), tuple(stats.layer_norms.shape)
    if shape not in (wanted, wanted[1:]):
        raise ValueError(
            f"{weighting.label} returned weights of shape {shape} for {wanted[1]} groups and "
            f"{wanted[0]} parameters: expected {wanted[1:]} or {wanted}."
        )
    seen = _Weighed(stats, weights.double().expand(wanted), after, weighting.facts(after))
    bad = (stats.valid & ~seen.weights.isfinite().all(0)).nonzero()
    if len(bad):
        raise ValueError(
            f"{weighting.label} returned a weight that is not finite: {_row(seen, int(bad[0]))}. "
            "Mind zero norms: (C / norms).clamp(max=1) gives 1 there, C / norms * norms gives NaN."
        )
    _check_bound(weighting, seen)
    return seen


def _check_bound(weighting: Weighting, seen: _Weighed) -> None:
    bound, stats = seen.facts.bound, seen.stats
    if bound is None or not len(stats.norms):
        return
    if not (math.isfinite(bound) and bound >= 0):
        raise ValueError(
            f"{weighting.label} claims the bound {bound}: expected a finite number, or None where "
            "nothing bounds a group."
        )
    rows = stats.layer_norms.double().clamp(min=_UNSEEN)
    lengths = torch.linalg.vector_norm(seen.weights * rows, dim=0).where(stats.valid, 0.0)
    worst = int(lengths.argmax())
    if lengths[worst] > bound * (1 + 1e-6):
        _false(
            weighting,
            f"that no weighted group is longer than {bound:.6g}",
            f"{_row(seen, worst)} is {float(lengths[worst]):.6g} long",
            "Correct its bound, or state bound=None",
        )


def _check_local(weighting: Weighting, seen: _Weighed, state: State, other: Stats) -> None:
    """Compares with calls in which groups beside some kept ones are others, or are gone."""
    every_second = torch.arange(1, len(seen.stats.norms), 2)
    one = (seen.stats.valid & (seen.stats.norms > 0)).nonzero()[-1]
    for keep, more in ((every_second, other), (one, None), (one[:0], None)):
        rows = _some(seen.stats, keep)
        again = _weigh(weighting, rows if more is None else _beside(rows, more), state)
        if seen.facts.local:
            _check_weights(weighting, seen, again, keep)
            _check_memory(weighting, seen, again)


def _check_weights(weighting: Weighting, seen: _Weighed, again: _Weighed, keep: Tensor) -> None:
    before, after = seen.weights[:, keep], again.weights[:, : len(keep)]
    apart = (seen.stats.valid[keep] & ~_alike(before, after)).nonzero()
    if len(apart):
        g = int(apart[0])
        _false(
            weighting,
            "local=True, that the weight of a group depends on that group alone",
            f"{_row(seen, int(keep[g]))}, beside {_others(seen, int(keep[g]))}, has weight "
            f"{_shown(after[:, g])} beside {_others(again, g)}",
            "State local=False",
        )


def _check_memory(weighting: Weighting, seen: _Weighed, again: _Weighed) -> None:
    """Compares what two batches leave behind."""
    if again.facts != seen.facts:
        _false(
            weighting,
            f"local=True and the bound {seen.facts.bound}",
            f"another batch at the same state makes it {again.facts}",
            "State local=False, or move the bound in finish, under noise",
        )
    if seen.facts.count_noise is not None or _difference(seen.state, again.state) is None:
        return
    one, two = (weighting.finish(w.state, _source(1)) for w in (seen, again))
    if (name := _difference(one, two)) is not None:
        _false(
            weighting,
            "local=True without a noised count",
            f"its state {name!r} after a step is {_shown(one.get(name))} after some groups and "
            f"{_shown(two.get(name))} after others",
            "State local=False, or add noise to a count in finish and state its std as count_noise",
        )


def _check_carry(weighting: Weighting, seen: _Weighed, state: State) -> None:
    """Compares one backward pass over all groups with three over parts of them."""
    if weighting.carry is None:
        return
    now, sofar = state, seen.weights[:, :0]
    for part in torch.arange(len(seen.stats.norms)).tensor_split(3):
        here = _weigh(weighting, _some(seen.stats, part), now)
        if sofar.shape[1]:
            sofar = sofar * weighting.carry(now, here.state).double().reshape(-1, 1)
        now, sofar = here.state, torch.cat([sofar, here.weights], dim=1)
    apart = (seen.stats.valid & ~_alike(seen.weights, sofar)).nonzero()
    if len(apart):
        g = int(apart[0])
        _false(
            weighting,
            "with carry that several backward passes of a step are like one",
            f"{_row(seen, g)} in one pass has weight {_shown(sofar[:, g])} over three",
            "Correct carry, or leave it out",
        )
    if _difference(seen.state, now, 1e-5) is None:
        return
    one, three = (weighting.finish(state, _source(1)) for state in (seen.state, now))
    if (name := _difference(one, three, 1e-5)) is not None:
        _false(
            weighting,
            "with carry that several backward passes of a step are like one",
            f"its state {name!r} is {_shown(one.get(name))} after a step of one pass and "
            f"{_shown(three.get(name))} after one of three",
            "Add up in weigh and use the sum in finish, or leave carry out",
        )


def _check_count(weighting: Weighting, state: State, layers: int) -> None:
    """Tries whether a row reaches the next state through a count only, and under its noise."""
    _, local, _, noise = facts = weighting.facts(state)
    if noise is None or not local:
        return

    def ended(rows: Stats, source: int) -> State:
        return weighting.finish(_weigh(weighting, rows, state).state, _source(source))

    claim = f"that its state follows a count of groups under noise of std {noise:g}"
    grown = _grown(layers, facts.bound or 1.0, 8 + 100 * noise)
    ends = [ended(rows, 1) for rows in grown]
    values = [s for i, s in enumerate(ends) if all(_difference(s, other) for other in ends[:i])]
    if len(values) > 2:
        _false(
            weighting,
            claim,
            f"one group whose norm changes takes it to {len(values)} different states",
            "Release a count only, of groups on one side of the bound",
        )
    after = _weigh(weighting, grown[0], state).state
    drawn = torch.stack([_flat(weighting.finish(after, _source(i))) for i in range(_DRAWS)])
    moved, spread = (_flat(ends[-1]) - _flat(ends[0])).abs(), drawn.std(dim=0)
    # One group that changes sides moves the count by 1. Half, since 24 draws tell no more.
    short = (spread < 0.5 * noise * moved).nonzero()
    if len(short) or not bool(spread.any()):
        i = int(short[0]) if len(short) else 0
        _false(
            weighting,
            claim,
            f"one group moves what it remembers by {float(moved[i]):.3g}, and the noise by "
            f"{float(spread[i]):.3g}",
            "Draw noise in finish, at the std that count_noise states, and keep nothing else",
        )


def _flat(state: State) -> Tensor:
    """Returns all numbers of a state, behind a zero, since there may be none."""
    numbers = [state[name].double().flatten() for name in sorted(state)]
    return torch.cat([torch.zeros(1, dtype=torch.float64), *numbers])


def _grown(layers: int, bound: float, divisor: float) -> list[Stats]:
    """Returns batches of three groups in which the first one grows from 1e-4 to 1e4 bounds."""
    batches = []
    for power in (-4, -2, -1, 0, 1, 2, 4):
        norms = torch.tensor([1.3 * 10.0**power, 0.4, 2.5]) * bound
        rows = (norms / math.sqrt(layers)).expand(layers, 3)
        batches.append(Stats(norms, rows, torch.ones(3), norms > 0, divisor))
    return batches


# ---- telling -----------------------------------------------------------------------------------


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """Returns [G], whether weights [L, G] are the same but for rounding."""
    return torch.isclose(a, b, rtol=1e-5, atol=0.0).all(0)


def _difference(a: State, b: State, rtol: float = 0.0) -> str | None:
    """Returns the name of a tensor that is not in both states alike, or None."""
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b or a[name].shape != b[name].shape:
            return name
        one, two = a[name], b[name]
        if not (torch.allclose(one, two, rtol=rtol, atol=0.0) if rtol else torch.equal(one, two)):
            return name
    return None


def _shown(values: Tensor | None) -> str:
    """Returns a few numbers for people, one where all are the same."""
    if values is None or not values.numel():
        return "nothing"
    flat = [f"{v:.4g}" for v in values.flatten()[:4].tolist()]
    if values.numel() <= 4 and len(set(flat)) == 1:
        return flat[0]
    return f"({', '.join(flat)}{', ...' if values.numel() > 4 else ''})"


def _row(seen: _Weighed, g: int) -> str:
    layers = _shown(seen.stats.layer_norms[:, g])
    weight = _shown(seen.weights[:, g])
    return (
        f"a group of norm {float(seen.stats.norms[g]):.6g} (layers {layers}) with weight {weight}"
    )


def _others(seen: _Weighed, g: int) -> str:
    norms = torch.cat([seen.stats.norms[:g], seen.stats.norms[g + 1 :]])
    return f"{len(norms)} others (norms {_shown(norms)})" if len(norms) else "no other"


def _false(weighting: Weighting, claim: str, found: str, advice: str) -> NoReturn:
    raise ValueError(
        f"{weighting.label} claims {claim}, but {found}. No epsilon would hold. {advice}."
    )
