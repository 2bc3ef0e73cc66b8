"""Group gradients that exist already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.parts.part import Part, row_squares, written


@dataclass(frozen=True, eq=False)
class Formed:
    """Rows of biases and norms, which are small, and of whatever has no other way.

    Attributes:
        formed: [G, *shape].
        known: [G] their squared norms, if they were taken on the way.
    """

    formed: Tensor
    known: Tensor | None = None

    def rows(self, out: Tensor | None) -> Tensor:
        """See `Part`."""
        return written(self.formed, out)

    def add_to(self, rows: Tensor) -> None:
        """See `Part`."""
        rows += self.formed

    def squares(self) -> Tensor:
        """See `Part`."""
        return row_squares(self.formed) if self.known is None else self.known

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        rows = self.formed
        flat = rows if rows.dim() == 2 else rows.reshape(len(rows), -1)
        if flat.dtype != factors.dtype:
            flat = flat.to(factors.dtype)
        if valid is not None:
            flat = flat.masked_fill(~valid[:, None], 0.0)
        total = torch.mv(flat.t(), factors)
        return total if rows.dim() == 2 else total.view(rows.shape[1:])

    def joined(self, other: Part) -> Part | None:
        """See `Part`."""
        return Formed(self.formed + other.formed) if isinstance(other, Formed) else None
