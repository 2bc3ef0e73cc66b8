"""Group gradients of parameters that are used in slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor

from dpclip.groups import Groups
from dpclip.parts import Part


@dataclass(frozen=True, eq=False)
class Sliced:
    """Rows of a parameter made up of parts of disjoint slices; zero elsewhere.

    A slice is a run of numbers in the order of memory: rows of a matrix, as the query, key and
    value weights in nn.MultiheadAttention's `in_proj_weight`, or one matrix of several.

    Attributes:
        shape: of the parameter.
        slices: (first number, shape, part) of each.
        groups: the groups.
    """

    shape: Sequence[int]
    slices: Sequence[tuple[int, Sequence[int], Part]]
    groups: Groups

    def rows(self, out: Tensor | None) -> Tensor:
        """See `Part`."""
        found = [rows_of(part) for _, _, part in self.slices]
        if out is None:
            out = found[0].new_empty(self.groups.count, *self.shape)
        flat = out.view(len(out), -1)
        if sum(row[0].numel() for row in found) < math.prod(self.shape):
            flat.zero_()
        for (start, _, _), row in zip(self.slices, found, strict=True):
            flat[:, start : start + row[0].numel()] = row.reshape(len(row), -1)
        return out

    def add_to(self, rows: Tensor) -> None:
        """See `Part`."""
        flat = rows.view(len(rows), -1)
        for start, _, part in self.slices:
            row = rows_of(part)
            row = row.reshape(len(row), -1)
            flat[:, start : start + row.shape[1]] += row

    def squares(self) -> Tensor:
        """See `Part`. Disjoint slices are orthogonal."""
        return reduce(Tensor.add, [part.squares() for _, _, part in self.slices])

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        found = [part.summed(factors, valid).flatten() for _, _, part in self.slices]
        flat = found[0].new_zeros(math.prod(self.shape))
        for (start, _, _), total in zip(self.slices, found, strict=True):
            flat[start : start + len(total)] = total
        return flat.view(list(self.shape))

    def joined(self, other: Part) -> Part | None:
        """See `Part`. Slices of the other either are the same as one here or meet none."""
        if not isinstance(other, Sliced):
            return None
        slices = list(self.slices)
        for start, shape, part in other.slices:
            stop = start + math.prod(shape)
            met = [i for i, s in enumerate(slices) if s[0] < stop and start < _stop(s)]
            if not met:
                slices.append((start, shape, part))
                continue
            mine = slices[met[0]]
            both = mine[2].joined(part)
            if (mine[0], list(mine[1])) != (start, list(shape)) or both is None:
                return None
            slices[met[0]] = (start, shape, both)
        return Sliced(self.shape, slices, self.groups)


def rows_of(part: Part) -> Tensor:
    """Returns the rows [G, *shape] of a part."""
    return part.rows(None)


def _stop(piece: tuple[int, Sequence[int], Part]) -> int:
    return piece[0] + math.prod(piece[1])
