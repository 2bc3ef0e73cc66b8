"""Group gradients that autograd has formed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.parts.part import Part, row_squares, written


@dataclass(frozen=True, eq=False)
class Separate:
    """Rows that lie apart from each other: of a model that was run for each group by itself.

    Attributes:
        each: G tensors [*shape].
    """

    each: Sequence[Tensor]

    def rows(self, out: Tensor | None) -> Tensor:
        """See `Part`."""
        return written(torch.stack(list(self.each)), out)

    def add_to(self, rows: Tensor) -> None:
        """See `Part`."""
        for row, one in zip(rows, self.each, strict=True):
            row += one

    def squares(self) -> Tensor:
        """See `Part`."""
        return torch.cat([row_squares(one[None]) for one in self.each])

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        total = torch.zeros_like(self.each[0], dtype=factors.dtype)
        for k, one in enumerate(self.each):
            row = one if valid is None else one.masked_fill(~valid[k], 0.0)
            torch.addcmul(total, row.to(total.dtype), factors[k], out=total)
        return total

    def joined(self, other: Part) -> Part | None:
        """See `Part`."""
        return None
