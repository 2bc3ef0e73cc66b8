"""Drawing logical batches, and telling the engine which records it sees.

Ids travel with the data: the sampler yields `Draw`s, the data set returns them beside the item,
the collate function carries them through worker processes, and the iterator hands them to the
engine when it *yields*, since prefetching workers run ahead of training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from dpclip.pieces import Draw, Piece, cut, padded, piece_of
from dpclip.types import Divisor, Grouping, Members

Expect = Callable[[Piece], None]


class PoissonBatches(Sampler[list[Draw]]):
    """Logical batches in which each unit is drawn with probability q, independently.

    The order within a batch is random: a sampler that returns sorted indices would always put
    the records at the end of the data set into the same last micro-batches.

    Args:
        records: N.
        rate: q.
        steps: logical batches per epoch.
        grouping: assigns slots.
        divisor: its public constants, or None.
        limit: largest physical batch, or None.
        generator: source of the draws.
        unit: data set index -> unit that is drawn whole, or None to draw records.
        fixed: whether every physical batch is padded to the limit.
    """

    def __init__(
        self,
        records: int,
        rate: float,
        steps: int,
        grouping: Grouping,
        divisor: Divisor | None,
        limit: int | None,
        generator: torch.Generator,
        unit: Callable[[int], Hashable] | None = None,
        fixed: bool = False,
    ) -> None:
        self.rate, self.steps, self.grouping = rate, steps, grouping
        self.limit, self.generator = limit, generator
        self._rows = limit if fixed and limit is not None else 0
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
        for _ in range(self.steps):
            drawn = torch.rand(self._count, generator=self.generator) < self.rate
            ids = drawn[self._units].nonzero().squeeze(1)
            ids = ids[torch.randperm(len(ids), generator=self.generator)]
            slots = self.grouping.assign(Members(len(ids), ids, self._slots, self.generator))
            for draws in cut(ids.tolist(), slots, self.limit):
                yield padded(draws, self._rows)


class GivenBatches(Sampler[list[Draw]]):
    """Somebody else's batches, grouped. Nothing is known of their sampling."""

    def __init__(
        self,
        batches: Any,
        grouping: Grouping,
        slots: int,
        limit: int | None,
        generator: torch.Generator,
    ) -> None:
        self.batches, self.grouping, self.slots = batches, grouping, slots
        self.limit, self.generator = limit, generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.batches:
            ids = torch.tensor(list(batch), dtype=torch.int64)
            slots = self.grouping.assign(Members(len(ids), ids, self.slots, self.generator))
            yield from cut(ids.tolist(), slots, self.limit)


class _WithDraws(Dataset[Any]):
    """The user's data set, indexed by draws."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw) -> tuple[Draw, Any]:
        return draw, self.dataset[draw.record]


class _CollateWithPiece:
    """The user's collate function, with the draws kept beside the batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, elements: list[tuple[Draw, Any]]) -> tuple[Piece, Any]:
        draws, items = zip(*elements, strict=True)
        return piece_of(draws), self.collate(list(items))


class PrivateLoader(DataLoader[Any]):
    """A DataLoader whose batches announce themselves to the engine."""

    def __init__(
        self, original: DataLoader[Any], batches: Sampler[list[Draw]], expect: Expect
    ) -> None:
        workers: dict[str, Any] = {}
        if original.num_workers:
            workers = {
                "prefetch_factor": original.prefetch_factor,
                "persistent_workers": original.persistent_workers,
                "multiprocessing_context": original.multiprocessing_context,
            }
        super().__init__(
            _WithDraws(original.dataset),
            batch_sampler=batches,
            num_workers=original.num_workers,
            collate_fn=_CollateWithPiece(original.collate_fn),
            pin_memory=original.pin_memory,
            timeout=original.timeout,
            worker_init_fn=original.worker_init_fn,
            generator=original.generator,
            **workers,
        )
        self._expect = expect

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for piece, batch in super().__iter__():
            self._expect(piece)
            yield batch


def check_loader(loader: DataLoader[Any], grouping: Grouping) -> None:
    """Raises unless batches can be drawn from this loader's data set.

    Raises:
        TypeError: an IterableDataset, which has no indices to draw.
        ValueError: no batch size, an empty data set, or a batch smaller than the grouping needs.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            "The data set is an IterableDataset, from which records cannot be drawn independently. "
            "Use a map-style data set with __getitem__ and __len__."
        )
    if loader.batch_size is None and loader.batch_sampler is None:
        raise ValueError("The DataLoader has batch_size=None. Give it the expected batch size.")
    if len(loader.dataset) == 0 or len(loader) == 0:  # type: ignore[arg-type]
        raise ValueError("The loader has no batch: its data set is empty, or drop_last drops it.")
    if loader.batch_size is not None and loader.batch_size < grouping.minimum:
        raise ValueError(
            f"The batch size {loader.batch_size} is smaller than {grouping.label} needs "
            f"({grouping.minimum}). Use larger batches or smaller groups."
        )


def sample_rate(loader: DataLoader[Any]) -> float:
    """Returns q = expected logical batch size / N, at most 1.

    Raises:
        ValueError: no expected batch size, or a sampler that picks or weighs records, which
            Poisson sampling over the whole data set would ignore.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if sampler is not None and type(sampler) not in (SequentialSampler, RandomSampler):
        raise ValueError(
            f"The loader's {type(sampler).__name__} would be ignored: Poisson sampling draws every "
            "record of the data set alike. Use torch.utils.data.Subset to leave records out, or "
            "pass poisson_sampling=False."
        )
    size = loader.batch_size
    if size is None:
        size = int(getattr(loader.batch_sampler, "batch_size", 0))
    if not size:
        raise ValueError(
            "Poisson sampling needs an expected batch size, and the loader's batch sampler has no "
            "batch_size. Build the DataLoader with batch_size=..., or pass poisson_sampling=False."
        )
    return min(1.0, size / len(loader.dataset))  # type: ignore[arg-type]
