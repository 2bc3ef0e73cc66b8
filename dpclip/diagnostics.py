"""Statistics of group gradients: what weightings see, and what people may look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.types import Stats


@dataclass(frozen=True)
class Diagnostics:
    """Raw statistics of the last step. They are not private: do not publish them.

    Attributes:
        norms: [G] l2 norms of the group gradients, before weighting.
        weights: [G] or [L, G] weights; NaN where the weighting makes the update itself.
        invalid: groups with a NaN or infinite gradient.
    """

    norms: Tensor
    weights: Tensor
    invalid: int

    @property
    def fraction_clipped(self) -> float:
        """Share of groups with a weight below 1 (for per-layer weights, in any layer).

        NaN where groups have no weights.
        """
        low = self.weights if self.weights.dim() == 1 else self.weights.amin(0)
        if len(low) and bool(self.weights.isnan().all()):
            return math.nan
        return float((low < 1).float().mean()) if len(low) else 0.0


def diagnostics_of(seen: Sequence[tuple[Stats, Tensor]]) -> Diagnostics:
    """Returns the diagnostics of a step from (statistics, weights) of its backward passes."""
    return Diagnostics(
        norms=torch.cat([stats.norms for stats, _ in seen]),
        weights=torch.cat([weights for _, weights in seen], dim=-1),
        invalid=sum(int((~stats.norms.isfinite()).sum()) for stats, _ in seen),
    )


def statistics(
    squares: Sequence[Tensor], scale: Tensor | float, sizes: Tensor, divisor: float
) -> Stats:
    """Returns the statistics of groups.

    Args:
        squares: L tensors [G], squared norms of the rows of each parameter.
        scale: [G] or one number, what rows are multiplied by to be u_g.
        sizes: [G] samples in each group, none of them empty.
        divisor: D.
    """
    layers = torch.stack(list(squares)).sqrt_().mul_(scale)
    norms = torch.linalg.vector_norm(layers, dim=0)
    return Stats(norms, layers, sizes, norms.isfinite(), divisor)
