"""The part of a logical batch that one physical batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dpclip.limits import Limits


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
    ids: Sequence[int], slots: Tensor, limits: Limits, logical: Logical
) -> Iterator[list[Draw]]:
    """Yields the physical batches of one logical batch, within the limits.

    Samples are sorted by slot and cut at slot borders only; a slot larger than the limits goes
    over several pieces of its own, marked open. With lengths, the slots with the longest samples
    come first, and so do the longest samples of a slot, so that what is padded to one length is
    of similar length. Slots are never formed of samples of similar length: which samples share a
    slot would then depend on the lengths of all others, and one record that leaves could move any
    of them. An empty batch yields one padding row, since every step of the mechanism must be taken.

    Args:
        ids: data set indices of the records of this process, in order.
        slots: [B] slot of each.
        limits: of a physical batch.
        logical: the batch they belong to.
    """
    if not ids:
        yield [Draw(0, 0, False, logical, True, True, False)]
        return
    numbers, lengths = slots.tolist(), limits.of(ids)
    chunks = _cut(_by_slot(numbers, lengths), lengths, limits)
    for number, (chunk, open_) in enumerate(chunks):
        first, last = number == 0, number == len(chunks) - 1
        chunk.sort(key=lambda i: numbers[i])
        yield [Draw(int(ids[i]), numbers[i], True, logical, first, last, open_) for i in chunk]


def padded(draws: list[Draw], rows: int) -> list[Draw]:
    """Returns `rows` draws: those given, then padding that counts for nothing."""
    padding = draws[0]._replace(slot=-1, real=False)
    return draws + [padding] * (rows - len(draws))


def _by_slot(slots: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Returns the samples of each slot, the longest first; of equal ones, by slot, in order."""
    found: dict[int, list[int]] = {slot: [] for slot in sorted(set(slots))}
    for i in sorted(range(len(slots)), key=lambda i: -lengths[i]):
        found[slots[i]].append(i)
    return sorted(found.values(), key=lambda members: -lengths[members[0]])


def _cut(
    by_slot: Sequence[list[int]], lengths: Sequence[int], limits: Limits
) -> list[tuple[list[int], bool]]:
    """Returns (samples, still open) of each piece."""
    chunks: list[tuple[list[int], bool]] = []
    for chunk in _joined(by_slot, lengths, limits):
        *parts, rest = [chunk]
        if not limits.hold(len(chunk), lengths[chunk[0]]):  # one slot that is too large
            *parts, rest = _joined([[i] for i in chunk], lengths, limits)
        chunks += [*((part, True) for part in parts), (rest, False)]
    return chunks


def _joined(blocks: Sequence[list[int]], lengths: Sequence[int], limits: Limits) -> list[list[int]]:
    """Returns the blocks, longest sample first, joined for as long as the limits hold them."""
    joined: list[list[int]] = []
    for block in blocks:
        rows = len(joined[-1]) + len(block) if joined else 0
        if joined and limits.hold(rows, lengths[joined[-1][0]]):
            joined[-1].extend(block)
        else:
            joined.append(list(block))
    return joined
