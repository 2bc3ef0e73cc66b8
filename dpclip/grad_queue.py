"""Grad Queue: gradients that are rare among the last ones count more (arXiv 2404.16917)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.types import State, Stats, Stream, Weighting, WeightingFacts
from dpclip.whole_numbers import check_count

_WHY = "what becomes of a group depends on the other groups and on earlier batches"


@dataclass(frozen=True)
class Dynamic:
    """A queue as long as the loss has been falling; made by `dynamic`.

    Attributes:
        shortest, longest: bounds on L.
        window: losses that are added up before they are compared.
    """

    shortest: int
    longest: int
    window: int

    def __str__(self) -> str:
        """Returns the constructor call."""
        return f"dynamic({self.shortest}, {self.longest}, {self.window})"

    def length(self, losses: Sequence[float]) -> int:
        """Returns L for the losses so far, the last one last; one that is NaN ends the walk."""
        last = len(losses)
        ends = range(last, self.window - 1, -1)
        sums = [sum(losses[end - self.window : end]) for end in ends]
        walked = 0
        while walked + 1 < len(sums) and sums[walked + 1] > sums[walked]:
            walked += 1
        return min(max(walked, self.shortest), self.longest)


def dynamic(shortest: int = 3, longest: int = 5, window: int = 3) -> Dynamic:
    """Returns the rule for a queue whose length follows the loss.

    The paper describes it in words only: a small window walks back over the loss history while
    its sum keeps increasing, within bounds. As many steps as it walks, so long is the queue.

    Args:
        shortest: smallest L, >= 1.
        longest: largest L; so many full gradients are kept.
        window: losses in the window, >= 1.

    Raises:
        ValueError: bounds that are none.
    """
    check_count("dynamic(shortest", shortest, "gradients")
    check_count("dynamic(longest", longest, "gradients")
    check_count("dynamic(window", window, "losses")
    if shortest > longest:
        raise ValueError(f"dynamic({shortest=}, {longest=}): expected shortest <= longest.")
    return Dynamic(shortest, longest, window)


def scarcity(rho: float = 3.0, length: int | Dynamic = 3, eps: float = 1e-12) -> Weighting:
    """Returns the rule that boosts what is rare, number by number (arXiv 2404.16917).

    Over a queue of the last L batch gradients, each number has a mean mu and a (population) std
    sigma. With r = |g - mu| / (sigma + eps), the mean gradient g of each group becomes

        Delta(g) = g * (min(r, rho) if r > 1 else max(r, 1 / rho)),

    the update is (1/B) sum_g m_g Delta(u_g), and the plain mean over the batch joins the queue.
    Until the queue is full the update is that plain mean. B counts the samples of the batch, also
    where groups have a public size.

    The queue holds L full gradients, as long as the training lasts and in every checkpoint, and
    the groups of one layer at a time are formed. No row is bounded by itself, so there is nothing
    to scale noise by, and no epsilon.

    On gradients that are independent from batch to batch, Delta multiplies the root mean square
    of the update by 2.27, 2.16 or 2.09 (L = 3, 4, 5; rho = 3): compare with SGD whose learning
    rate is larger by as much.

    Args:
        rho: largest weight, >= 1; the smallest is 1 / rho.
        length: L >= 1, which the paper takes from 3 to 5; or `dynamic(...)`, for which
            `engine.observe(loss)` must be called once for each batch, before its backward.
        eps: added to sigma, in units of the gradient; the paper does not say how much.

    Raises:
        ValueError: an argument outside its range.
    """
    _check(rho, length, eps)
    how = length if isinstance(length, Dynamic) else dynamic(length, length)
    follows = isinstance(length, Dynamic)

    def weigh(stats: Stats, state: State) -> tuple[Tensor, State]:
        assert stats.rows is not None
        sizes, queue = stats.sizes.to(stats.norms), _queue(state)
        boost = how.length(_losses(state)) if follows else how.longest
        last = queue[-boost:] if len(queue) >= boost else []
        update, plain, start = [], [], 0
        for layer in range(len(stats.layer_norms)):
            rows = stats.rows(layer)
            plain.append(sizes.to(rows) @ rows)
            end = start + rows.shape[1]
            if last:
                rows *= weights(rows, torch.stack([g[start:end] for g in last]), rho, eps)
            update.append(sizes.to(rows) @ rows)
            start = end
        if not len(sizes):
            return torch.cat(update), state
        seen = {"sum": torch.cat(plain), "samples": stats.sizes.sum()}
        return torch.cat(update), state | {k: v + state.get(k, 0) for k, v in seen.items()}

    def finish(state: State, _stream: Stream | None) -> State:
        kept = {k: v for k, v in state.items() if k not in ("sum", "samples")}
        if "sum" not in state:
            return kept
        queue = [*_queue(state), state["sum"] / state["samples"]][-how.longest :]
        return kept | {_name(i): gradient for i, gradient in enumerate(queue)}

    def observe(state: State, loss: float) -> State:
        losses = [*_losses(state, needed=False), loss][-(how.longest + how.window) :]
        return state | {"losses": torch.tensor(losses, dtype=torch.float64)}

    return Weighting(
        label=f"scarcity({rho:g}, length={length}, eps={eps:g})",
        init=lambda _: {},
        weigh=weigh,
        facts=lambda _: WeightingFacts(None, False, _WHY),
        finish=finish,
        carry=lambda _before, _after: torch.ones(()),
        needs="rows",
        observe=observe if follows else None,
    )


def weights(rows: Tensor, queue: Tensor, rho: float, eps: float = 1e-12) -> Tensor:
    """Returns [G, n] what each number of rows [G, n] is multiplied by, from 1 / rho to rho.

    Since rho >= 1, the two cases of the paper are one clamp.

    Args:
        rows: gradients.
        queue: [L, n] the last ones.
        rho: largest weight.
        eps: added to sigma.
    """
    mean = queue.mean(0)
    sigma = (queue - mean).square_().mean(0).sqrt_()
    return (rows - mean).abs_().div_(sigma.add_(eps)).clamp_(1 / rho, rho)


def _name(i: int) -> str:
    return f"queue.{i}"


def _queue(state: State) -> list[Tensor]:
    """Returns the gradients [P] in the queue, the oldest first.

    Each is a tensor of its own that nobody writes to, so pushing one copies none.
    """
    count = sum(name.startswith("queue.") for name in state)
    return [state[_name(i)] for i in range(count)]


def _losses(state: State, needed: bool = True) -> list[float]:
    if "losses" in state:
        return [float(loss) for loss in state["losses"]]
    if needed:
        raise RuntimeError(
            "scarcity(length=dynamic(...)) was told no loss. Call engine.observe(loss) once for "
            "each batch, before loss.backward()."
        )
    return []


def _check(rho: float, length: int | Dynamic, eps: float) -> None:
    """Raises ValueError for numbers that make no queue."""
    if not (math.isfinite(rho) and rho >= 1):
        raise ValueError(f"scarcity(rho={rho}): expected a finite number >= 1, the largest weight.")
    if not isinstance(length, Dynamic):
        check_count("scarcity(length", length, "gradients in the queue")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"scarcity(eps={eps}): expected a positive finite number.")
