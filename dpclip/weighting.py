"""How much each group counts: weights from group norms, and what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpclip.types import State, Stats, Stream, Weighting, WeightingFacts

_EVERYBODY = "its weight depends on the other groups"


def _no_state(_shapes: Sequence[torch.Size]) -> State:
    return {}


def _one(_before: State, _after: State) -> Tensor:
    return torch.ones(())


def uniform() -> Weighting:
    """Returns weight 1 for every group: plain training."""
    return Weighting(
        label="uniform()",
        init=_no_state,
        weigh=lambda stats, state: (torch.ones_like(stats.norms), state),
        facts=lambda _: WeightingFacts(None, True, "nothing bounds a group"),
        carry=_one,
    )


def clip(bound: float) -> Weighting:
    """Returns min(1, C / n_g) (Abadi et al. 2016; per core, arXiv 2406.02004).

    Args:
        bound: C > 0, in units of the gradient norm.

    Raises:
        ValueError: C is not a positive finite number.
    """
    _positive("clip(bound)", bound)
    return Weighting(
        label=f"clip({bound:g})",
        init=_no_state,
        weigh=lambda stats, state: ((bound / stats.norms).clamp(max=1.0), state),
        facts=lambda _: WeightingFacts(bound, True, f"every group is clipped to {bound:g}"),
        carry=_one,
    )


def normalize(gamma: float, radius: float = 1.0) -> Weighting:
    """Returns radius / (n_g + gamma) (automatic clipping, Bu et al. 2023, arXiv 2206.07136).

    Args:
        gamma: stabilizer, > 0, in units of the gradient norm.
        radius: bound on a weighted row, > 0.

    Raises:
        ValueError: gamma or radius is not a positive finite number.
    """
    _positive("normalize(gamma)", gamma)
    _positive("normalize(radius)", radius)
    return Weighting(
        label=f"normalize({gamma:g}, radius={radius:g})",
        init=_no_state,
        weigh=lambda stats, state: (radius / (stats.norms + gamma), state),
        facts=lambda _: WeightingFacts(radius, True, f"every group is shorter than {radius:g}"),
        carry=_one,
    )


def clip_to_min() -> Weighting:
    """Returns min_j n_j / n_g: adaptive clipping of micro-batches and cores.

    arXiv 2408.16204, Algorithm 1, and APCC of arXiv 2406.02004.

    Empty and non-finite groups are outside the minimum; a group with zero norm makes the update
    zero. Over several backward passes of one step the minimum runs over all of them.
    """

    def weigh(stats: Stats, state: State) -> tuple[Tensor, State]:
        alone = stats.norms.masked_fill(~stats.valid, math.inf)
        low = torch.minimum(state["low"].to(alone), alone.amin()) if len(alone) else state["low"]
        weights = torch.where(stats.norms > 0, low / stats.norms, 0.0)
        return weights, {"low": low}

    def carry(before: State, after: State) -> Tensor:
        first = torch.isinf(before["low"])
        shrunk = torch.where(before["low"] > 0, after["low"] / before["low"], 0.0)
        return torch.where(first, torch.ones_like(shrunk), shrunk)

    return Weighting(
        label="clip_to_min()",
        init=lambda _: {"low": torch.tensor(math.inf)},
        weigh=weigh,
        facts=lambda _: WeightingFacts(None, False, _EVERYBODY),
        finish=lambda state, _: {"low": torch.full_like(state["low"], math.inf)},
        carry=carry,
    )


def quantile(
    q: float, bound: float = 1.0, rate: float = 0.2, count_noise: float | None = None
) -> Weighting:
    """Returns min(1, C / n_g) with C steered to the q-quantile of the norms (Andrew et al. 2021).

    After each step C <- C exp(-rate (b - q)), where b is the fraction of groups with n_g <= C.

    Args:
        q: target quantile in (0, 1).
        bound: C at the start.
        rate: learning rate of log C.
        count_noise: std of Gaussian noise on the *number* of unclipped groups. Without it C leaks
            and no epsilon is claimed; with it the count is a second mechanism, which is accounted.

    Raises:
        ValueError: an argument outside its range.
    """
    _positive("quantile(bound)", bound)
    _positive("quantile(rate)", rate)
    if not 0 < q < 1:
        raise ValueError(f"quantile(q={q}): expected a number between 0 and 1.")
    if count_noise is not None:
        _positive("quantile(count_noise)", count_noise)

    def weigh(stats: Stats, state: State) -> tuple[Tensor, State]:
        current = state["bound"].to(stats.norms)
        # Centred at 1/2 and divided by D, so that a group that appears moves it by 1/2 only and
        # the number of groups, which is not public, does not enter.
        side = ((stats.norms <= current).to(stats.norms) - 0.5).masked_fill(~stats.valid, 0.0)
        return (current / stats.norms).clamp(max=1.0), {
            "bound": state["bound"],
            "tally": state["tally"] + side.sum().to(state["tally"]),
            "divisor": torch.tensor(stats.divisor),
        }

    def finish(state: State, stream: Stream | None) -> State:
        tally = state["tally"]
        if count_noise is not None:
            assert stream is not None
            tally = tally + stream.normal(tally, count_noise)
        fraction = (tally / state["divisor"] + 0.5).clamp(0.0, 1.0)
        steered = state["bound"] * torch.exp(-rate * (fraction - q))
        return start(steered)

    def start(current: Tensor) -> State:
        return {"bound": current, "tally": torch.zeros(()), "divisor": torch.ones(())}

    def facts(state: State) -> WeightingFacts:
        current = float(state["bound"])
        why = "the bound follows the other groups' norms"
        if count_noise is not None:
            why = f"every group is clipped to {current:.3g}, steered by a noised count"
        return WeightingFacts(current, count_noise is not None, why, count_noise)

    return Weighting(
        label=f"quantile({q:g})",
        init=lambda _: start(torch.tensor(float(bound))),
        weigh=weigh,
        facts=facts,
        finish=finish,
        carry=_one,
    )


def per_layer(rule: Weighting) -> Weighting:
    """Returns weights [L, G]: `rule` applied to each parameter tensor (McMahan et al. 2018).

    A layer is one parameter tensor, as in Opacus' per-layer mode. If every layer is bounded by
    C_l, a row is bounded by the square root of the sum of C_l^2.

    Raises:
        ValueError: a rule that makes the update itself.
    """
    if rule.needs == "rows":
        raise ValueError(
            f"per_layer({rule.label}): this rule makes the update itself and has no weights for "
            "layers. Use it alone; scarcity() looks at every number by itself already."
        )
    layers = "layers"

    def split(state: State, layer: int) -> State:
        return {name: value[layer] for name, value in state.items() if name != layers}

    def stack(states: list[State]) -> State:
        stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
        return {layers: torch.tensor(len(states)), **stacked}

    def each(state: State, apply: Callable[[State], State]) -> State:
        return stack([apply(split(state, i)) for i in range(int(state[layers]))])

    def weigh(stats: Stats, state: State) -> tuple[Tensor, State]:
        weights, states = [], []
        for layer, norms in enumerate(stats.layer_norms):
            alone = Stats(norms, norms[None], stats.sizes, stats.valid, stats.divisor)
            weight, after = rule.weigh(alone, split(state, layer))
            weights.append(weight)
            states.append(after)
        return torch.stack(weights), stack(states)

    def facts(state: State) -> WeightingFacts:
        promises = [rule.facts(split(state, i)) for i in range(int(state[layers]))]
        bounds = [p.bound for p in promises if p.bound is not None]
        # One noised count for each layer would have to be composed L times.
        joint = next((p for p in promises if not p.local or p.count_noise is not None), None)
        if free := next((p for p in promises if p.bound is None), None):
            return WeightingFacts(None, joint is None, free.because)
        total = math.hypot(*bounds)
        if joint is not None:
            return WeightingFacts(total, False, joint.because)
        why = f"its {len(bounds)} layers together are at most {total:.3g} long"
        return WeightingFacts(total, True, why)

    def carry(before: State, after: State) -> Tensor:
        assert rule.carry is not None
        pairs = ((split(before, i), split(after, i)) for i in range(int(after[layers])))
        return torch.stack([rule.carry(b, a) for b, a in pairs])

    return Weighting(
        label=f"per_layer({rule.label})",
        init=lambda shapes: stack([rule.init([shape]) for shape in shapes]),
        weigh=weigh,
        facts=facts,
        finish=lambda state, stream: each(state, lambda s: rule.finish(s, stream)),
        carry=rule.carry if rule.carry in (None, _one) else carry,
    )


def chain(first: Weighting, second: Weighting) -> Weighting:
    """Returns a(n) * b(a(n) n): `second` sees the groups as `first` left them.

    A row is bounded by `second`'s bound if both weights are local. If `first` is
    clip_to_min, a step must be one backward pass. A rule that makes the update itself, such as
    scarcity, can only be the second: chain(clip(C), scarcity()).

    Raises:
        ValueError: `first` makes the update itself.
    """
    if first.needs == "rows":
        raise ValueError(
            f"chain({first.label}, {second.label}): the first rule makes the update itself, which "
            "leaves no groups to weigh. Put it last."
        )

    def part(state: State, name: str) -> State:
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def join(a: State, b: State) -> State:
        return {f"first.{k}": v for k, v in a.items()} | {f"second.{k}": v for k, v in b.items()}

    def weigh(stats: Stats, state: State) -> tuple[Tensor, State]:
        a, after_a = first.weigh(stats, part(state, "first"))
        # Invalid groups carry NaN norms; they are masked by the engine, not here.
        layers = a.expand_as(stats.layer_norms) * stats.layer_norms
        norms = a * stats.norms if a.dim() == 1 else torch.linalg.vector_norm(layers, dim=0)
        b, after_b = second.weigh(
            Stats(norms, layers, stats.sizes, stats.valid, stats.divisor, weighed(stats, a)),
            part(state, "second"),
        )
        return (b if second.needs == "rows" else a * b), join(after_a, after_b)

    def weighed(stats: Stats, weights: Tensor) -> Callable[[int], Tensor] | None:
        rows, each = stats.rows, weights.expand_as(stats.layer_norms)
        if rows is None:
            return None
        left = each.masked_fill(~stats.valid, 0.0)  # the weight of a NaN may be one
        return lambda layer: rows(layer).mul_(left[layer][:, None])

    def facts(state: State) -> WeightingFacts:
        a, b = first.facts(part(state, "first")), second.facts(part(state, "second"))
        if not a.local and a.bound is None:
            return WeightingFacts(None, False, a.because)
        if not a.local or a.count_noise is not None:
            return WeightingFacts(b.bound, False, "the bound follows the other groups' norms")
        return b

    def observe(state: State, loss: float) -> State:
        a, b = part(state, "first"), part(state, "second")
        told = (
            s if r.observe is None else r.observe(s, loss) for r, s in ((first, a), (second, b))
        )
        return join(*told)

    def carry(before: State, after: State) -> Tensor:
        assert second.carry is not None
        return second.carry(part(before, "second"), part(after, "second"))

    return Weighting(
        label=f"chain({first.label}, {second.label})",
        init=lambda shapes: join(first.init(shapes), second.init(shapes)),
        weigh=weigh,
        facts=facts,
        finish=lambda state, stream: join(
            first.finish(part(state, "first"), stream),
            second.finish(part(state, "second"), stream),
        ),
        carry=carry if first.carry is _one and second.carry is not None else None,
        needs=second.needs,
        observe=None if first.observe is None and second.observe is None else observe,
    )


def _positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} = {value}: expected a positive finite number.")
