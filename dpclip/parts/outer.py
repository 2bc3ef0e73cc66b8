"""Group gradients of matrices: sums over positions of outer products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.groups import Groups, sections
from dpclip.parts.part import (
    Part,
    accumulated,
    row_squares,
    silenced,
    weighted,
    with_rounding,
)

_CANCELLED = 1e-3
"""A Gram norm below this share of what it is a difference of has lost its digits."""

_CHUNK = 2**18
"""Elements of rows that are formed at a time where only their norms are wanted."""


@dataclass(frozen=True, eq=False)
class Outer:
    """Rows sum_n g[r, n, :] a[r, n, :]^T of a matrix [o, i]: linear layers, attention, recurrence.

    Attributes:
        a: [R, n, i] what came in.
        g: [R, n, o] what came back.
        groups: the groups of the R samples.
        shape: of the parameter if it is not [o, i], such as [o, i, 1] of a kernel of one pixel.
    """

    a: Tensor
    g: Tensor
    groups: Groups
    shape: torch.Size | None = None

    def rows(self, out: Tensor | None) -> Tensor:
        """See `Part`."""
        found = self._matrices(None if out is None else self._as_matrices(out))
        return found if self.shape is None else found.view(len(found), *self.shape)

    def _as_matrices(self, rows: Tensor) -> Tensor:
        """Returns a view [G, o, i] of rows [G, *shape]."""
        return rows if self.shape is None else rows.view(len(rows), *self._matrix)

    @property
    def _matrix(self) -> tuple[int, int]:
        return self.g.shape[2], self.a.shape[2]

    def _matrices(self, out: Tensor | None) -> Tensor:
        """Returns the rows [G, o, i]; groups of b samples fold into the positions: a view."""
        if self.groups.equal is None:
            out = self._empty() if out is None else out
            for row, (a, g) in zip(out, self._sections(), strict=True):
                row.copy_(g.t() @ a)
            return out
        a, g = self._folded()
        if a.shape[1] == 1:  # an outer product, for which bmm takes three times as long
            return torch.mul(g.transpose(1, 2), a, out=out)
        if out is not None and out.dtype != a.dtype:
            return out.copy_(torch.bmm(g.transpose(1, 2), a))
        return torch.bmm(g.transpose(1, 2), a, out=out)

    def add_to(self, rows: Tensor) -> None:
        """See `Part`."""
        rows = self._as_matrices(rows)
        if self.groups.equal is None:
            for row, (a, g) in zip(rows, self._sections(), strict=True):
                row += g.t() @ a
        else:
            a, g = self._folded()
            rows.baddbmm_(g.transpose(1, 2).to(rows.dtype), a.to(rows.dtype))

    def squares(self) -> Tensor:
        """See `Part`. By the Gram matrices of a and g where they are smaller than a row."""
        if self.groups.equal is None:
            return torch.cat([_squares(a[None], g[None]) for a, g in self._sections()])
        return _squares(*self._folded())

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        g = weighted(self.g, self.groups, factors, valid)
        a = silenced(self.a, self.groups, valid)
        a = a if a.dtype == g.dtype else a.to(g.dtype)
        total = g.reshape(-1, g.shape[2]).t() @ a.reshape(-1, a.shape[2])
        return total if self.shape is None else total.view(self.shape)

    def joined(self, other: Part) -> Part | None:
        """See `Part`. The positions of both uses, one after the other."""
        if not isinstance(other, Outer):
            return None
        a, g = torch.cat([self.a, other.a], 1), torch.cat([self.g, other.g], 1)
        return Outer(a, g, self.groups, self.shape)

    def _empty(self) -> Tensor:
        return self.a.new_empty(self.groups.count, *self._matrix)

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Returns a [G, b n, i] and g [G, b n, o]."""
        count = self.groups.count
        return (
            self.a.reshape(count, -1, self.a.shape[-1]),
            self.g.reshape(count, -1, self.g.shape[-1]),
        )

    def _sections(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields a [m n, i] and g [m n, o] of each group."""
        for a, g in zip(sections(self.a, self.groups), sections(self.g, self.groups), strict=True):
            yield a.flatten(0, 1), g.flatten(0, 1)


def gram_is_cheaper(n: int, i: int, o: int) -> bool:
    """Returns True if two Gram matrices [n, n] cost less than one product [o, i]."""
    return n * (i + o) <= i * o


def _squares(a: Tensor, g: Tensor) -> Tensor:
    """Returns [G] squared norms of g^T a for a [G, n, i] and g [G, n, o]."""
    wide = accumulated(g.dtype)
    long_a = torch.linalg.vector_norm(a, dim=(1, 2), dtype=wide)
    terms: Tensor = long_a.mul_(torch.linalg.vector_norm(g, dim=(1, 2), dtype=wide))
    return terms.square_() if a.shape[1] == 1 else with_rounding(_square(a, g), terms)


def _square(a: Tensor, g: Tensor) -> Tensor:
    """Returns the same, as exact as the products are."""
    wide, n = accumulated(g.dtype), a.shape[1]
    if a.dtype != wide:  # half precision has too few digits for differences of products
        a, g = a.to(wide), g.to(wide)
    # On a GPU, looking for lost digits would be a wait.
    if a.device.type != "cpu" or not gram_is_cheaper(n, a.shape[2], g.shape[2]):
        return _in_chunks(a, g)
    gram = torch.bmm(a, a.transpose(1, 2)).mul_(torch.bmm(g, g.transpose(1, 2)))
    found = gram.sum((1, 2), dtype=wide).clamp_(min=0.0)
    # n times the sum of |a|^2 |g|^2 over positions is what the Gram sum may cancel down from.
    lost = found < gram.diagonal(dim1=1, dim2=2).sum(1, dtype=wide).mul_(_CANCELLED * n)
    if bool(lost.any()):
        found[lost] = _in_chunks(a[lost], g[lost])
    return found


def _in_chunks(a: Tensor, g: Tensor) -> Tensor:
    """Returns [G] squared norms of g^T a, with the rows of a few groups formed at a time."""
    step = max(1, _CHUNK // (a.shape[2] * g.shape[2]))
    pairs = zip(a.split(step), g.split(step), strict=True)
    return torch.cat([row_squares(torch.bmm(y.transpose(1, 2), x)) for x, y in pairs])
