"""Drawing logical batches: which records, in which groups, and where to go on after a stop."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dpclip.limits import Limits
from dpclip.pieces import Draw, Logical, cut, padded
from dpclip.types import Divisor, Grouping, Members, Stream


class PoissonBatches(Sampler[list[Draw]]):
    """Logical batches in which each unit is drawn with probability q, independently.

    The order within a batch is random: a sampler that returns sorted indices would always put
    the records at the end of the data set into the same last micro-batches. Prefetching workers
    make it run ahead of training; so it keeps the state of its stream after each batch, until
    training has come there.

    Args:
        records: N.
        rate: q.
        steps: logical batches per epoch.
        grouping: assigns slots.
        divisor: its public constants, or None.
        limits: of a physical batch.
        stream: source of the draws; the same on all ranks.
        unit: data set index -> unit that is drawn whole, or None to draw records.
        fixed: whether every physical batch is padded to as many samples as it may have.
        share: (rank, ranks); of each batch, the groups of this rank are yielded.
    """

    def __init__(
        self,
        records: int,
        rate: float,
        steps: int,
        grouping: Grouping,
        divisor: Divisor | None,
        limits: Limits,
        stream: Stream,
        unit: Callable[[int], Hashable] | None = None,
        fixed: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.rate, self.steps, self.grouping = rate, steps, grouping
        self.limits, self.stream, self.share = limits, stream, share
        self.counter = Counter(steps)
        self._after: dict[int, Tensor | None] = {}
        self._rows = (limits.rows or 0) if fixed else 0
        self._slots = round(divisor.groups) if divisor else 0
        self._units = torch.arange(records)
        if unit is not None:
            codes: dict[Hashable, int] = {}
            self._units = torch.tensor(
                [codes.setdefault(unit(i), len(codes)) for i in range(records)]
            )
        self._count = int(self._units.max()) + 1

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for number in self.counter.epoch():
            self._after.setdefault(number - 1, self.stream.state())
            drawn = self.stream.uniform(self._count) < self.rate
            ids = drawn[self._units].nonzero().squeeze(1)
            ids = ids[self.stream.order(len(ids))]
            slots = self.grouping.assign(Members(len(ids), ids, self._slots, self.stream))
            self._after[number] = self.stream.state()
            logical = Logical(number, self.rate, len(slots.unique()))
            ids, slots = share_of(ids, slots, self.share)
            for draws in cut(ids.tolist(), slots, self.limits, logical):
                yield padded(draws, self._rows)

    def reached(self, number: int) -> None:
        """Forgets the states that training will not come back to, now that it is at a batch."""
        for passed in [n for n in self._after if n < number - 1]:
            del self._after[passed]

    def position(self, following: int) -> dict[str, Any]:
        """Returns what continues with the batch of this number."""
        state = self._after.get(following - 1)
        return {"batch": following, "stream": self.stream.state() if state is None else state}

    def resume(self, position: dict[str, Any]) -> None:
        """Continues at a `position()`; the next iteration ends with the epoch it lies in."""
        self.counter.resume(int(position["batch"]))
        self._after.clear()
        if position["stream"] is not None:
            self.stream.restore(position["stream"])


class GivenBatches(Sampler[list[Draw]]):
    """Somebody else's batches, grouped. Nothing is known of their sampling.

    Args:
        batches: yields lists of data set indices.
        grouping: assigns slots.
        slots: how many slots there are to draw from.
        limits: of a physical batch.
        stream: source of random slots.
        share: (rank, ranks); with several, each rank's batches are its own, and one group.
    """

    def __init__(
        self,
        batches: Any,
        grouping: Grouping,
        slots: int,
        limits: Limits,
        stream: Stream,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.batches, self.grouping, self.slots = batches, grouping, slots
        self.limits, self.stream, self.share = limits, stream, share
        self.counter = Counter(len(batches))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        numbers = self.counter.epoch()
        skipped = numbers.start % max(1, len(self))
        for number, batch in zip(numbers, islice(self.batches, skipped, None), strict=False):
            ids = torch.tensor(list(batch), dtype=torch.int64)
            slots, groups = self._grouped(ids)
            yield from cut(ids.tolist(), slots, self.limits, Logical(number, None, groups))

    def _grouped(self, ids: Tensor) -> tuple[Tensor, int]:
        rank, ranks = self.share
        if ranks > 1:
            return torch.full((len(ids),), rank), ranks
        slots = self.grouping.assign(Members(len(ids), ids, self.slots, self.stream))
        return slots, len(slots.unique())

    def reached(self, number: int) -> None:
        """Nothing is kept of batches that somebody else draws."""

    def position(self, following: int) -> dict[str, Any]:
        """Returns the number to go on with; which records those batches hold is not ours to say."""
        return {"batch": following, "stream": self.stream.state()}

    def resume(self, position: dict[str, Any]) -> None:
        """Continues at a `position()`: as many batches of an epoch are skipped as were taken."""
        self.counter.resume(int(position["batch"]))
        if position["stream"] is not None:
            self.stream.restore(position["stream"])


class Counter:
    """Numbers logical batches over epochs, also over one that was interrupted.

    Args:
        steps: batches per epoch.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self._epoch = steps, 0
        self._resumed: int | None = None

    def epoch(self) -> range:
        """Returns the numbers of the next epoch, or of the rest of one that is resumed."""
        start = self._epoch * self._steps if self._resumed is None else self._resumed
        self._epoch, self._resumed = start // self._steps + 1, None
        return range(start, self._epoch * self._steps)

    def resume(self, number: int) -> None:
        """Makes the next epoch start with this batch."""
        self._resumed = number


def share_of(ids: Tensor, slots: Tensor, share: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns (ids, slots) of the groups that belong to one rank: every ranks-th slot is its."""
    rank, ranks = share
    if ranks == 1:
        return ids, slots
    mine = slots % ranks == rank
    return ids[mine], slots[mine]
