"""Group gradients of tables: rows of which few places are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.groups import Groups
from dpclip.parts.part import Part, accumulated, with_rounding


@dataclass(frozen=True, eq=False)
class Scattered:
    """Rows of a table [V, d] with g[j] added at place ids[j] of group owner[j]: embeddings.

    Attributes:
        ids: [J] which place.
        owner: [J] which group.
        g: [J, d] what came back.
        words: V.
        groups: the groups.
    """

    ids: Tensor
    owner: Tensor
    g: Tensor
    words: int
    groups: Groups

    def rows(self, out: Tensor | None) -> Tensor:
        """See `Part`."""
        shape = (self.groups.count, self.words, self.g.shape[1])
        out = self.g.new_zeros(shape) if out is None else out.zero_()
        self.add_to(out)
        return out

    def add_to(self, rows: Tensor) -> None:
        """See `Part`. Never one-hot: added up at `group * V + id`."""
        rows.view(-1, self.g.shape[1]).index_add_(0, self._places(), self.g.to(rows.dtype))

    def squares(self) -> Tensor:
        """See `Part`. Sums what falls on one place of one group, then squares; no table is held."""
        places, order = self._places().sort()
        new = torch.ones_like(places)
        new[1:] = places[1:] != places[:-1]
        where = new.cumsum(0).sub_(1)
        wide = accumulated(self.g.dtype)
        met = torch.zeros_like(self.g, dtype=wide).index_add_(0, where, self.g[order].to(wide))
        owner = torch.zeros_like(self.owner).index_copy_(0, where, self.owner[order])
        found = met.new_zeros(self.groups.count)
        lengths = torch.linalg.vector_norm(self.g, dim=1, dtype=wide)
        terms = torch.zeros_like(found).index_add_(0, self.owner, lengths)
        return with_rounding(found.index_add_(0, owner, torch.linalg.vecdot(met, met)), terms)

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        g = self.g.to(factors.dtype) * factors[self.owner][:, None]
        if valid is not None:
            g = g.masked_fill(~valid[self.owner][:, None], 0.0)
        return g.new_zeros(self.words, g.shape[1]).index_add_(0, self.ids, g)

    def joined(self, other: Part) -> Part | None:
        """See `Part`."""
        if not isinstance(other, Scattered):
            return None
        return Scattered(
            torch.cat([self.ids, other.ids]),
            torch.cat([self.owner, other.owner]),
            torch.cat([self.g, other.g]),
            self.words,
            self.groups,
        )

    def _places(self) -> Tensor:
        return self.owner * self.words + self.ids
