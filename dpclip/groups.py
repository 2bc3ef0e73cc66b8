"""The groups of one backward pass, as index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """How B rows fall into G groups.

    Attributes:
        index: [R] group of each kept row, 0 .. G-1.
        count: G.
        sizes: [G] kept rows of each group.
        keep: [R] which of the B rows are kept, or None if all are. Padding rows are left out
            before any arithmetic: zero times NaN is NaN.
        equal: b if every group is b consecutive rows, else None; lets a rule use views.
        lengths: `sizes` as numbers.
        order: [R] kept rows sorted by group, or None if they are sorted.
    """

    index: Tensor
    count: int
    sizes: Tensor
    keep: Tensor | None
    equal: int | None
    lengths: Sequence[int]
    order: Tensor | None


def groups_of(slots: Tensor, real: Tensor | None = None) -> Groups:
    """Returns the groups of samples with these slot numbers.

    Args:
        slots: [B] int64, any numbers; equal numbers form a group.
        real: [B] bool, False for padding rows; None if there are none.
    """
    keep = None
    if real is not None and not bool(real.all()):
        keep = real.nonzero().squeeze(1)
        slots = slots[keep]
    _, index, sizes = torch.unique(slots, return_inverse=True, return_counts=True)
    count, lengths = len(sizes), sizes.tolist()
    order = None
    if count and bool((index[1:] < index[:-1]).any()):
        order = torch.argsort(index, stable=True)
    alike = order is None and len(set(lengths)) == 1
    return Groups(index, count, sizes, keep, lengths[0] if alike else None, lengths, order)


def kept_rows(rows: Tensor, groups: Groups) -> Tensor:
    """Returns the rows [R, ...] of [B, ...] that are not padding."""
    return rows if groups.keep is None else rows[groups.keep.to(rows.device)]


def sections(rows: Tensor, groups: Groups) -> Sequence[Tensor]:
    """Returns the kept rows [R, ...] of each group, as G tensors [m_g, ...]."""
    if groups.order is not None:
        rows = rows[groups.order.to(rows.device)]
    found: Sequence[Tensor] = rows.split(list(groups.lengths))
    return found


def segment_sum(rows: Tensor, groups: Groups) -> Tensor:
    """Returns [G, ...], the sums of the kept rows [R, ...] by group."""
    if groups.equal == 1:
        return rows
    if groups.equal is not None:
        return rows.reshape(groups.count, groups.equal, *rows.shape[1:]).sum(1)
    index = groups.index.to(rows.device)
    return rows.new_zeros(groups.count, *rows.shape[1:]).index_add_(0, index, rows)


def spread(values: Tensor, groups: Groups) -> Tensor:
    """Returns [R], the value [G] of each kept row's group."""
    if groups.equal == 1:
        return values
    if groups.equal is not None:
        return values.repeat_interleave(groups.equal, output_size=len(groups.index))
    return values[groups.index.to(values.device)]
