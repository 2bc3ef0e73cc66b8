"""One forward pass and one backward pass, as the engine keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpclip.gathering import Gathered
from dpclip.groups import Groups
from dpclip.pieces import Piece

Rows = dict[nn.Parameter, Tensor]
"""Parameter -> rows [G, *shape]."""


class Assigned(NamedTuple):
    """How the rows of a forward pass fall into groups.

    Attributes:
        groups: the groups.
        divisor: D.
    """

    groups: Groups
    divisor: float


@dataclass(eq=False)
class Forward:
    """One forward pass.

    Attributes:
        rows: B.
        piece: what the loader had yielded.
        task: the backward pass it ran in (activation checkpointing), -1 outside of any.
        start: rows of the piece that were done when it began.
        assigned: its groups, where they were needed before its backward.
    """

    rows: int
    piece: Piece | None
    task: int
    start: int = 0
    assigned: Assigned | None = None

    def same_batch(self, other: Forward) -> bool:
        """Returns True if both saw the same records.

        Two passes over a whole piece did (a siamese network). Two over parts of it may have seen
        different parts, and rows of different records must not meet in one group.
        """
        if self is other:
            return True
        whole = self.piece is None or self.rows == len(self.piece.slots)
        return self.rows == other.rows and self.piece is other.piece and whole


@dataclass
class Pass:
    """What one backward pass has gathered so far."""

    task: int
    forward: Forward
    groups: Groups
    divisor: float
    gathered: Gathered
    deferred: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class OpenGroup:
    """The last group of a piece or of a slice of it, while rows of it are still to come.

    Its rows are kept times the B that a mean loss divided them by, and divided by the next one's.
    """

    rows: Rows = field(default_factory=dict)
    size: int = 0
    slot: int = -1  # its number in the logical batch

    def join(self, rows: Rows, sizes: Tensor, b: float) -> tuple[Rows, Tensor]:
        """Returns (rows, sizes) with what was kept added to the first group, and keeps nothing."""
        if not self.size or not len(sizes):
            return rows, sizes
        sizes = torch.cat([sizes[:1] + self.size, sizes[1:]])
        for param, kept in self.rows.items():
            here = rows.get(param)
            if here is None:
                here = kept.new_zeros(len(sizes), *kept.shape)
            rows[param] = torch.cat([here[:1] + kept / b, here[1:]])
        self.rows, self.size = {}, 0
        return rows, sizes

    def keep_last(self, rows: Rows, sizes: Tensor, b: float, slot: int) -> tuple[Rows, Tensor]:
        """Returns (rows, sizes) without the last group, number `slot`, which is kept."""
        self.slot = slot
        self.rows, self.size = {p: r[-1] * b for p, r in rows.items()}, int(sizes[-1])
        return {p: r[:-1] for p, r in rows.items()}, sizes[:-1]

    def take(self) -> tuple[Rows, Tensor]:
        """Returns what was kept as a group of its own, as a loss over one sample gives it.

        If nothing was kept, that is no group.
        """
        if not self.size:
            return {}, torch.zeros(0, dtype=torch.int64)
        rows, sizes = {p: r[None] for p, r in self.rows.items()}, torch.tensor([self.size])
        self.rows, self.size = {}, 0
        return rows, sizes
