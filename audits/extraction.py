"""Extraction: the most likely fillings of a format, and where secrets rank among all of them.

Best-first search over prefixes (Carlini et al. 2019, section 4.3 and algorithm 1): a prefix has
lost no more than any of its continuations, so whatever is complete and lost less than every open
prefix is in order. No filling is left out, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audits.exposure.value import UNIFORM, Exposure
from audits.frontier import Nodes, children, joined, root, subtrees, through
from audits.intervals import check_count
from audits.slots import Layout, LogProbs, Slot, filling_of, lay_out

__all__ = ["Search", "search"]

Array = NDArray[np.float64]
Tokens = NDArray[np.int64]

# Fillings that floats can still count.
LARGEST: Final = 1e300
WHOLE: Final = "the fillings are the whole space, all equally likely"


@dataclass(frozen=True, eq=False)
class Search:
    """What a search found in its budget.

    Attributes:
        fillings: The most likely fillings [k, h] in tokens, most likely first: the extraction.
        losses: Their losses [k] in nats.
        lowest: Each secret's rank [n] is at least this, by increasing loss, ties before it.
        highest: And at most this. Where the two are equal the rank is exact.
        space: |R|, the number of fillings.
        evaluations: Prefixes that the model saw.
        reasons: Why the search ended before it had found everything, if it did.
    """

    fillings: Tokens
    losses: Array
    lowest: Array
    highest: Array
    space: int
    evaluations: int
    reasons: tuple[str, ...] = ()

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Which secrets' ranks are exact [n]."""
        return np.asarray(self.lowest == self.highest)

    def exposure(self) -> Exposure:
        """The secrets' exposures `log2 |R| - log2 rank`, without sampling error.

        A secret whose rank is known between limits has its exposure between `low` and `high`;
        `bits` is then the lower limit, which never overstates and whose p-value holds, and `valid`
        is False.

        Raises:
            ValueError: The search was for no secrets.
        """
        if not len(self.lowest):
            raise ValueError("The search was for no secrets; give it some to rank.")
        ceiling = math.log2(self.space)
        low, high = (np.log2(self.space / rank) for rank in (self.highest, self.lowest))
        unknown = int((~self.exact).sum())
        reason = (
            f"{unknown} of {len(low)} ranks are not exact after {self.evaluations} evaluations: "
            "these exposures are at least `bits` and at most `high`"
        )
        return Exposure(
            bits=low,
            low=low,
            high=high,
            p_value=self.highest / self.space,
            method="searched",
            counts={"space": self.space, "evaluations": self.evaluations},
            ceiling=ceiling,
            alpha=0.0,
            assumptions=(UNIFORM, WHOLE),
            valid=unknown == 0,
            reasons=(reason,) if unknown else (),
        )


def search(
    log_probs: LogProbs,
    prefix: Sequence[int] | Tensor,
    slots: Sequence[Slot],
    secrets: Sequence[Sequence[int]] = (),
    most_likely: int = 1,
    evaluations: int = 20_000,
    batch: int = 256,
    frontier: int = 2_000_000,
) -> Search:
    """The most likely fillings of a format and the ranks of secrets among all fillings.

    Exact like enumeration, in spaces of any size: a memorized secret among 10^9 takes some ten
    evaluations. The search ends when all is known, or at a budget; what it has seen then bounds
    every rank from both sides. The last quarter of a budget completes what it can of the fillings
    that come before secrets not reached, so that these are known to rank low.

    Args:
        log_probs: As in `audits.enumeration.enumerate_losses`.
        prefix: Tokens [t0] before the first slot, at least one.
        slots: The format: fixed tokens and holes, each hole a list of different tokens.
        secrets: Fillings to rank, one token for each hole. Their own prefixes are seen first, in
            any case.
        most_likely: How many of the most likely fillings to find.
        evaluations: Prefixes that the model may see, the secrets' own left out.
        batch: Prefixes seen at a time; the order found does not depend on it.
        frontier: Prefixes and fillings held in memory, 16 bytes each and 8 for each hole.

    Raises:
        ValueError: A format or secret that does not fit, a count below 1 (0 for most_likely), or
            log-probabilities of another shape, NaN or above 0.
    """
    budget = _Budget(evaluations, batch, frontier)
    budget.check(most_likely)
    for secret in secrets:
        filling_of(slots, secret)
    layout = lay_out(prefix, slots)
    sizes = subtrees(layout)
    if sizes[0] > LARGEST:
        raise ValueError(f"The format has more than {LARGEST:.0e} fillings; use fewer holes.")
    tokens = np.array([list(secret) for secret in secrets], np.int64)
    nodes, targets, own = root(len(sizes) - 1), np.empty(0), 0
    if len(tokens):
        nodes, targets, own = through(layout, log_probs, tokens, batch)
    goal = _Goal(most_likely, float(targets.max(initial=-math.inf)))
    waiting, whole, seen = _explored(layout, log_probs, nodes, goal, budget)
    lowest, highest = _ranks(waiting, whole, targets, sizes)
    best = goal.extracted(waiting, whole)
    return Search(
        fillings=best.tokens,
        losses=best.losses,
        lowest=lowest,
        highest=highest,
        space=sizes[0],
        evaluations=own + seen,
        reasons=budget.reasons(len(waiting), seen),
    )


class _Budget(NamedTuple):
    evaluations: int
    batch: int
    frontier: int

    def check(self, most_likely: int) -> None:
        check_count("most_likely", most_likely, 0)
        for name, count in zip(self._fields, self, strict=True):
            check_count(name, count, 1)

    def deep(self, seen: int) -> bool:
        """Whether the last quarter has begun."""
        return 4 * (self.evaluations - seen) <= self.evaluations

    def size(self, seen: int, held: int, layout: Layout) -> int:
        """How many prefixes to see next; below 1 where the budget is spent.

        Only a fraction of what was seen before, so that few unlikely ones are seen early; and near
        the end so few that there are batches enough to reach the bottom.
        """
        room = (self.frontier - held) // max(map(len, layout.alphabets))
        few = 1 + self.evaluations // (16 * len(layout.places)) if self.deep(seen) else self.batch
        return min(self.batch, 32 + seen // 4, self.evaluations - seen, room, few)

    def reasons(self, waiting: int, seen: int) -> tuple[str, ...]:
        if not waiting:
            return ()
        if seen >= self.evaluations:
            return (f"{self.evaluations} evaluations were spent; {waiting} prefixes waited",)
        return (f"{waiting} prefixes waited, with no room in frontier={self.frontier} for more",)


def _explored(
    layout: Layout, log_probs: LogProbs, nodes: Nodes, goal: _Goal, budget: _Budget
) -> tuple[Nodes, Nodes, int]:
    """The prefixes that still wait, the fillings found that matter, and the prefixes seen."""
    waiting, whole = goal.needed(*_divided(nodes))
    seen = 0
    while len(waiting) and (size := budget.size(seen, len(waiting) + len(whole), layout)) > 0:
        chosen = goal.next(waiting, size, budget.deep(seen))
        seen += len(chosen)
        grown, filled = _divided(children(layout, log_probs, waiting.take(chosen), budget.batch))
        waiting = waiting.take(np.delete(np.arange(len(waiting)), chosen))
        waiting, whole = goal.needed(joined([waiting, grown]), joined([whole, filled]))
    return waiting, whole, seen


class _Goal(NamedTuple):
    """How many fillings are wanted, and the loss up to which all must be counted."""

    most_likely: int
    worst: float

    def limit(self, whole: Nodes) -> float:
        """The loss of the last filling that would be listed if nothing better came."""
        if self.most_likely == 0:
            return -math.inf
        if len(whole) < self.most_likely:
            return math.inf
        return float(np.partition(whole.losses, self.most_likely - 1)[self.most_likely - 1])

    def next(self, waiting: Nodes, many: int, deep: bool) -> NDArray[np.int64]:
        """The numbers of the prefixes to see next.

        In increasing loss, unless `deep`: then whichever soonest completes fillings that come
        before some secret, if there are any.
        """
        before = np.flatnonzero(waiting.losses <= self.worst)
        if deep and len(before):
            return np.asarray(before[waiting.take(before).deepest(many)])
        return waiting.nearest(many)

    def needed(self, waiting: Nodes, whole: Nodes) -> tuple[Nodes, Nodes]:
        """The nodes that can still change the result; losses only grow on the way down."""
        limit = self.limit(whole)
        return (
            waiting.take((waiting.losses <= self.worst) | (waiting.losses < limit)),
            whole.take(whole.losses <= max(self.worst, limit)),
        )

    def extracted(self, waiting: Nodes, whole: Nodes) -> Nodes:
        """The most likely fillings, as far as nothing that waits can come before them."""
        settled = min(self.limit(whole), float(waiting.losses.min(initial=math.inf)))
        ordered = whole.take(whole.losses <= settled).ordered()
        return ordered.take(np.arange(min(self.most_likely, len(ordered))))


def _divided(nodes: Nodes) -> tuple[Nodes, Nodes]:
    """The prefixes, and the whole fillings."""
    whole = nodes.depths == nodes.tokens.shape[1]
    return nodes.take(~whole), nodes.take(whole)


def _ranks(waiting: Nodes, whole: Nodes, targets: Array, sizes: list[int]) -> tuple[Array, Array]:
    """Fillings that lost at most as much as each target: those seen; those not excluded."""
    seen = np.searchsorted(np.sort(whole.losses), targets, side="right").astype(np.float64)
    possible = seen.copy()
    for depth in np.unique(waiting.depths).tolist():
        losses = np.sort(waiting.losses[waiting.depths == depth])
        possible += np.searchsorted(losses, targets, side="right") * float(sizes[depth])
    return seen, np.minimum(possible, sizes[0])
