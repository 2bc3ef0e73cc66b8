"""The part of a logical batch that one physical batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Logical(NamedTuple):
    """What is known of a logical batch, beside its records.

    Attributes:
        number: how many were drawn before it, counted over epochs.
        rate: q with which each record (or user) was drawn, or None if nobody knows.
        groups: how many groups it has, those of all ranks together.
    """

    number: int
    rate: float | None
    groups: int


class Draw(NamedTuple):
    """One element of a physical batch: a data set index and where it belongs.

    It travels from the sampler through worker processes to the collate function, so it holds
    plain numbers.

    Attributes:
        record: data set index.
        slot: its group in the logical batch.
        real: False for the padding row of an empty batch.
        logical: the logical batch.
        first, last: whether this physical batch opens or ends a logical batch.
        open: whether its last group goes on in the next physical batch.
    """

    record: int
    slot: int
    real: bool
    logical: Logical
    first: bool
    last: bool
    open: bool


class Piece(NamedTuple):
    """A physical batch: slots [B], real [B] and the facts its draws share (see `Draw`)."""

    ids: Tensor
    slots: Tensor
    real: Tensor
    logical: Logical
    first: bool
    last: bool
    open: bool

    @property
    def groups(self) -> int:
        """Groups of the logical batch."""
        return self.logical.groups


def piece_of(draws: Sequence[Draw]) -> Piece:
    """Returns the piece that these draws make up."""
    head = draws[0]
    return Piece(
        torch.tensor([d.record for d in draws]),
        torch.tensor([d.slot for d in draws]),
        torch.tensor([d.real for d in draws]),
        *head[3:],
    )


def cut(
    ids: Sequence[int], slots: Tensor, limit: int | None, logical: Logical
) -> Iterator[list[Draw]]:
    """Yields the physical batches of one logical batch, at most `limit` samples each.

    Samples are sorted by slot and cut at slot borders only; a slot larger than the limit goes
    over several pieces of its own, marked open. An empty batch yields one padding row, since
    every step of the mechanism must be taken.

    Args:
        ids: data set indices of the records of this process, in order.
        slots: [B] slot of each.
        limit: largest physical batch, or None.
        logical: the batch they belong to.
    """
    if not ids:
        yield [Draw(0, 0, False, logical, True, True, False)]
        return
    order = torch.argsort(slots, stable=True).tolist()
    by_slot: list[list[int]] = []
    previous = None
    for i in order:
        slot = int(slots[i])
        if slot != previous:
            by_slot.append([])
            previous = slot
        by_slot[-1].append(i)
    chunks = _pack(by_slot, limit or len(ids))
    for number, (chunk, open_) in enumerate(chunks):
        first, last = number == 0, number == len(chunks) - 1
        yield [Draw(int(ids[i]), int(slots[i]), True, logical, first, last, open_) for i in chunk]


def padded(draws: list[Draw], rows: int) -> list[Draw]:
    """Returns `rows` draws: those given, then padding that counts for nothing."""
    padding = draws[0]._replace(slot=-1, real=False)
    return draws + [padding] * (rows - len(draws))


def _pack(by_slot: Sequence[list[int]], limit: int) -> list[tuple[list[int], bool]]:
    """Returns (samples, still open) of each piece."""
    chunks: list[tuple[list[int], bool]] = []
    current: list[int] = []
    for members in by_slot:
        if current and len(current) + len(members) > limit:
            chunks.append((current, False))
            current = []
        if len(members) <= limit:
            current = current + members
            continue
        parts = [members[i : i + limit] for i in range(0, len(members), limit)]
        chunks.extend((part, True) for part in parts[:-1])
        chunks.append((parts[-1], False))
    if current:
        chunks.append((current, False))
    return chunks
