"""Which samples share a gradient, as dpclip and as a loop over groups are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dpclip import micro_batches, per_core, per_sample
from dpclip.types import Grouping


@dataclass(frozen=True)
class Sharing:
    """One granularity.

    Attributes:
        label: how tables call it; b is the number of samples in a group.
        grouping: for dpclip.
        split: rows [B, ...] -> the rows of each group, for a loop.
    """

    label: str
    grouping: Grouping
    split: Callable[[Tensor], Sequence[Tensor]]


def single() -> Sharing:
    """Returns groups of one sample."""
    return Sharing("b=1", per_sample(), lambda rows: rows.split(1))


def groups_of(size: int) -> Sharing:
    """Returns groups of `size` consecutive samples; the last may be smaller."""
    return Sharing(f"b={size}", micro_batches(size), lambda rows: rows.split(size))


def cores(count: int) -> Sharing:
    """Returns equal shares of the batch for `count` cores."""
    return Sharing(f"{count} cores", per_core(count), lambda rows: rows.tensor_split(count))


def whole() -> Sharing:
    """Returns one group of the whole batch."""
    return Sharing("b=B", per_core(1), lambda rows: (rows,))
