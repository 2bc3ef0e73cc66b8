"""What a rule hands to the engine: the group gradients of one parameter, formed or not yet.

Index letters beside those of `dpclip.types`: R kept rows (samples without padding) of a batch,
n positions within a sample (time steps, pixels), i and o features in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dpclip.groups import Groups, spread


class Part(Protocol):
    """The gradients of one parameter by group, from one use of it or several.

    A part can form them (`rows`), or say how long they are and what they sum up to without ever
    holding all of them (`squares`, `summed`). Both ways agree up to rounding; which one is taken
    is a matter of speed and memory.
    """

    def rows(self, out: Tensor | None) -> Tensor:
        """Returns the rows [G, *shape]; written to `out` if it is given, else to new memory."""

    def add_to(self, rows: Tensor) -> None:
        """Adds the rows to `rows` [G, *shape] in place."""

    def squares(self) -> Tensor:
        """Returns [G], the squared l2 norms of the rows, in float32 or wider."""

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """Returns [*shape], the sum over groups of `factors` [G] times the rows.

        Args:
            factors: [G].
            valid: [G] bool, False for groups that are left out whatever they hold; None if all
                count.
        """

    def joined(self, other: Part) -> Part | None:
        """Returns one part for two uses of a parameter, None where only their rows add up."""


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which norms are added up: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def written(rows: Tensor, out: Tensor | None) -> Tensor:
    """Returns the rows, copied to `out` if it is given."""
    return rows if out is None else out.copy_(rows)


def row_squares(rows: Tensor) -> Tensor:
    """Returns [G], the squared l2 norms of rows [G, ...]."""
    flat = rows if rows.dim() == 2 else rows.reshape(len(rows), -1)
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=accumulated(rows.dtype))
    return norms.square_()


def with_rounding(squares: Tensor, terms: Tensor) -> Tensor:
    """Returns [G] squared norms that a row is not longer than when it is summed beside others.

    Where rows are never formed, their weighted sum is rounded to the size of the terms that it
    adds up; terms of one row that cancel each other would wipe out the digits of all others, and
    their small norm would not have told.

    Args:
        squares: [G] of the rows.
        terms: [G] upper bounds on the length of the terms of each row together.
    """
    return squares.add_((torch.finfo(squares.dtype).eps * terms).square_())


def weighted(rows: Tensor, groups: Groups, factors: Tensor, valid: Tensor | None) -> Tensor:
    """Returns samples [R, ...] times their group's factor [G]; exactly 0 in groups not valid.

    In the dtype of the factors, which is float32 at least.
    """
    # Half precision would round the factors, and with them the bound on a row.
    if rows.dtype != factors.dtype:
        rows = rows.to(factors.dtype)
    each = spread(factors, groups)
    scaled = rows * (each[:, None, None] if rows.dim() == 3 else each.view(-1, *_ones(rows)))
    return silenced(scaled, groups, valid)


def row_source(
    parts: Sequence[Part | None],
    shapes: Sequence[Tensor],
    valid: Tensor,
    scale: Tensor | float,
) -> Callable[[int], Tensor]:
    """Returns layer -> [G, numel] its rows times `scale`, in new memory; see `Stats.rows`.

    Args:
        parts: L parts, None for a parameter that nothing came back for.
        shapes: L parameters.
        valid: [G] bool; the rows of other groups are exactly 0.
        scale: [G], or one number.
    """

    def rows(layer: int) -> Tensor:
        part, param = parts[layer], shapes[layer]
        if part is None:
            dtype = accumulated(param.dtype)
            return torch.zeros(len(valid), param.numel(), dtype=dtype, device=param.device)
        formed = part.rows(None).reshape(len(valid), param.numel())
        each = scale[:, None].to(formed) if isinstance(scale, Tensor) else scale
        return (formed * each).masked_fill_(~valid[:, None], 0.0)

    return rows


def silenced(rows: Tensor, groups: Groups, valid: Tensor | None) -> Tensor:
    """Returns samples [R, ...], exactly 0 in groups that are not valid: zero times NaN is NaN."""
    if valid is None:
        return rows
    return rows.masked_fill(~spread(valid, groups).view(-1, *_ones(rows)), 0.0)


def _ones(rows: Tensor) -> list[int]:
    return [1] * (rows.dim() - 1)
