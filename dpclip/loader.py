"""Telling the engine which records it sees.

Ids travel with the data: the sampler yields `Draw`s, the data set returns them beside the item,
the collate function carries them through worker processes, and the iterator hands them to the
engine when it *yields*, since prefetching workers run ahead of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from dpclip.draws import GivenBatches, PoissonBatches
from dpclip.limits import Limits
from dpclip.pieces import Draw, Piece, piece_of
from dpclip.types import Grouping, Stream

Expect = Callable[[Piece, Piece | None], None]
_UNLIMITED = Limits()


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
    """A DataLoader whose batches announce themselves to the engine.

    Its workers are seeded from a generator of its own, so that iterating over it takes nothing
    from torch's global one, which dropout draws from.

    Args:
        original: the user's loader.
        batches: what is drawn.
        expect: told of every physical batch, and of the one before it.
        seed: of the workers.
        affords: whether there is budget for a batch; the iteration ends before one that is too
            much.
    """

    # Accelerate would build another loader of the parts of this one, without the announcements.
    _is_accelerate_prepared = True

    def __init__(
        self,
        original: DataLoader[Any],
        batches: PoissonBatches | GivenBatches,
        expect: Expect,
        seed: int = 0,
        affords: Callable[[Piece], bool] = lambda _: True,
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
            generator=original.generator or torch.Generator().manual_seed(seed),
            **workers,
        )
        self._batches, self._expect, self._affords = batches, expect, affords

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        previous = None
        for piece, batch in super().__iter__():
            if piece.first and not self._affords(piece):
                return
            self._batches.reached(piece.logical.number)
            self._expect(piece, previous)
            previous = piece
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

    With a DistributedSampler, as for plain training over ranks, the loader's batch size is that
    of one rank, and the logical batch is that of all.

    Raises:
        ValueError: no expected batch size, or a sampler that picks, weighs or cuts batches in its
            own way, which Poisson sampling over the whole data set would ignore.
    """
    sampler, batches = _sampler(loader), loader.batch_sampler
    allowed = (SequentialSampler, RandomSampler, DistributedSampler)
    ignored = next(
        (
            type(s).__name__
            for s, types in ((sampler, allowed), (batches, (BatchSampler,)))
            if s is not None and type(s) not in types
        ),
        None,
    )
    if ignored is not None and _batch_size(loader):
        raise ValueError(
            f"The loader's {ignored} would be ignored: Poisson sampling draws every "
            "record of the data set alike, and batches of any size (for a bound on memory give "
            "max_physical_batch). Use torch.utils.data.Subset to leave records out, or "
            "pass poisson_sampling=False."
        )
    if not (size := _batch_size(loader)):
        raise ValueError(
            "Poisson sampling needs an expected batch size, and the loader's batch sampler has no "
            "batch_size. Build the DataLoader with batch_size=..., or pass poisson_sampling=False."
        )
    size *= sampler.num_replicas if isinstance(sampler, DistributedSampler) else 1
    return min(1.0, size / len(loader.dataset))  # type: ignore[arg-type]


def _sampler(loader: DataLoader[Any]) -> Sampler[int] | None:
    return getattr(loader.batch_sampler, "sampler", None)


def _batch_size(loader: DataLoader[Any]) -> int:
    return loader.batch_size or int(getattr(loader.batch_sampler, "batch_size", 0))


def batches_of(
    loader: DataLoader[Any],
    grouping: Grouping,
    rate: float | None,
    stream: Stream,
    *,
    limits: Limits = _UNLIMITED,
    fixed: bool = False,
    share: tuple[int, int] = (0, 1),
) -> PoissonBatches | GivenBatches:
    """Returns the batches to be drawn from a loader's data set.

    Args:
        loader: the user's.
        grouping: assigns slots.
        rate: q, or None to keep the loader's own batches.
        stream: source of the draws.
        limits: of a physical batch.
        fixed: whether every physical batch is padded to as many samples as it may have.
        share: (rank, ranks).

    Raises:
        ValueError: own batches over several ranks that are not split among them.
    """
    records = len(loader.dataset)  # type: ignore[arg-type]
    if rate is not None:
        unit = grouping.key if grouping.facts.unit == "user" else None
        divisor = grouping.divisor(rate, records)
        return PoissonBatches(
            records, rate, len(loader), grouping, divisor, limits, stream, unit, fixed, share
        )
    if share[1] > 1 and not isinstance(_sampler(loader), DistributedSampler):
        raise ValueError(
            "poisson_sampling=False over several ranks needs a loader with a DistributedSampler, "
            "so that each rank has batches of its own. Give it one, or keep Poisson sampling, "
            "which draws one batch for all ranks and gives each its share."
        )
    public = grouping.divisor(1 / len(loader), records)
    slots = round(public.groups) if public else 0
    return GivenBatches(loader.batch_sampler, grouping, slots, limits, stream, share)
