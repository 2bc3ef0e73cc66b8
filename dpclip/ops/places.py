"""Where the samples of a batch are in a tensor, and tensors with the samples in front."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dpclip.groups import Groups, kept_rows, segment_sum


class Place(NamedTuple):
    """The B samples lie along an axis of `outer * B * inner`.

    [B, T, d] has them at Place(0), [T, B, d] at Place(1), [B T, d] at Place(0, 1, T) and [T B, d]
    at Place(0, T, 1).
    """

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def exact(self) -> bool:
        """Whether the axis holds nothing but the samples."""
        return self.outer == 1 and self.inner == 1

    def fits(self, other: Place) -> bool:
        """Returns True if `other`, in a tensor of other sizes, lies the same way."""
        if self.axis != other.axis or self.exact:
            return self == other
        if self.outer == 1:
            return other.outer == 1
        return other.inner == 1 if self.inner == 1 else self == other


ALONE = Place(-1)
"""The place of a single sample, which is everywhere."""


def candidates(shape: Sequence[int], rows: int, barred: Collection[int]) -> list[Place]:
    """Returns every place that B > 1 samples could have in a tensor.

    Args:
        shape: its shape.
        rows: B.
        barred: axes that cannot be the batch's; -1 is the last.
    """
    closed = {axis % len(shape) for axis in barred} if shape else set()
    found = []
    for axis, size in enumerate(shape):
        if axis in closed or size % rows or not size:
            continue
        each = size // rows
        found += [Place(axis, each // i, i) for i in range(1, each + 1) if each % i == 0]
    return found


def samples_first(tensor: Tensor, place: Place, rows: int) -> Tensor:
    """Returns a view [B, ...]; of a folded axis, `outer` and `inner` stay in its place."""
    if place.axis < 0:
        return tensor.unsqueeze(0)
    if place.exact:
        return tensor.movedim(place.axis, 0)
    return unfolded(tensor, place, rows).movedim(place.axis + 1, 0)


def unfolded(tensor: Tensor, place: Place, rows: int) -> Tensor:
    """Returns a view with (outer, B, inner) in place of their product."""
    shape = tensor.shape
    sizes = (*shape[: place.axis], place.outer, rows, place.inner, *shape[place.axis + 1 :])
    return tensor.reshape(sizes)


@dataclass(frozen=True)
class Where:
    """The place of the B samples in an operation's output, and their groups."""

    place: Place
    rows: int
    groups: Groups

    def first(self, tensor: Tensor) -> Tensor:
        """Returns the kept samples [R, ...] of a tensor with its batch at the same place."""
        return kept_rows(samples_first(tensor, self.place, self.rows), self.groups)

    def positions(self, tensor: Tensor) -> Tensor:
        """Returns [R, n, d] from a tensor [..., d]."""
        found = self.first(tensor)
        return found.reshape(len(found), -1, tensor.shape[-1])

    def summed(self, values: Tensor, shape: Sequence[int], dims: int) -> Tensor:
        """Returns rows [G, *shape] of something that was broadcast to an output.

        Args:
            values: [R, ...] its gradient as if it had had the output's shape.
            shape: what it had.
            dims: dimensions of the output.
        """
        wide = [1] * (dims - len(shape)) + list(shape)
        axis, outer, inner = self.place
        if axis < 0:
            return segment_sum(_reduced(values, wide), self.groups).view(-1, *shape)
        own, size = wide[axis], self.rows * outer * inner
        folded = [] if self.place.exact else [outer, inner] if own == size else [1, own]
        rest = [*wide[:axis], *folded, *wide[axis + 1 :]]
        found = _reduced(values, rest)
        if own != size:
            return segment_sum(found, self.groups).view(-1, *shape)
        # It holds a row for each sample (noise [B, d] times a scale): no sample sees the others'.
        kept = self.groups.keep
        columns = torch.arange(self.rows) if kept is None else kept
        full = found.new_zeros(self.groups.count, self.rows, *rest)
        full[self.groups.index.to(full.device), columns.to(full.device)] = found
        return full.movedim(1, axis + 1 + (not self.place.exact)).reshape(-1, *shape)


def _reduced(values: Tensor, rest: Sequence[int]) -> Tensor:
    """Returns values [R, ...] summed to [R, *rest]: over axes of size 1 there, and over periods."""
    for axis, size in enumerate(rest, 1):
        has = values.shape[axis]
        if size not in (1, has):
            values = values.unflatten(axis, (has // size, size)).sum(axis)
    stretched = [i for i, size in enumerate(rest, 1) if size == 1 and values.shape[i] != 1]
    return values.sum(stretched, keepdim=True) if stretched else values
