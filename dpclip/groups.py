"""The groups of one backward pass, as index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """How B rows fall into G groups, none of them empty.

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


def groups_of(
    slots: Tensor, real: Tensor | None = None, device: torch.device | None = None
) -> Groups:
    """Returns the groups of samples with these slot numbers.

    Args:
        slots: [B] int64, any numbers; equal numbers form a group.
        real: [B] bool, False for padding rows; None if there are none.
        device: where the index tensors go, without waiting for it.
    """
    keep = None
    if real is not None and not bool(real.all()):
        keep = real.nonzero().squeeze(1)
        slots = slots[keep]
    groups = _grouped(slots.to("cpu", torch.int64).numpy().tobytes(), device)
    return groups if keep is None else replace(groups, keep=_sent(keep, device))


def _sent(tensor: Tensor, device: torch.device | None) -> Tensor:
    """Returns the tensor on a device; from pinned memory, so that nobody waits for the copy."""
    if device is None or device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=32)
def _grouped(slots: bytes, device: torch.device | None) -> Groups:
    """Returns the groups of int64 slot numbers; most batches fall into groups like the last.

    In numpy, whose calls take a fifth of the time on so few numbers.
    """
    numbers = np.frombuffer(slots, dtype=np.int64)
    steps = np.diff(numbers)
    order = None
    if (steps >= 0).all():
        index = np.concatenate([[0], np.cumsum(steps > 0)]) if len(numbers) else numbers.copy()
    else:
        index = np.unique(numbers, return_inverse=True)[1]
        order = torch.from_numpy(np.argsort(index, kind="stable"))
    sizes = np.bincount(index)
    lengths = sizes.tolist()
    equal = lengths[0] if order is None and len(set(lengths)) == 1 else None
    return Groups(
        _sent(torch.from_numpy(index), device),
        len(lengths),
        _sent(torch.from_numpy(sizes), device),
        None,
        equal,
        lengths,
        None if order is None else _sent(order, device),
    )


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
