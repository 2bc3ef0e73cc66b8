"""Where gradient canaries point to: unit vectors among the coordinates of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SHORTER = 1 - 2.0**-20  # so that rounding to float32 leaves no canary longer than its bound


class Directions(Protocol):
    """Where m canaries point to, among d coordinates: unit vectors c_i."""

    @property
    def label(self) -> str:
        """For people."""

    def add(self, grads: Sequence[Tensor], amounts: NDArray[np.float64]) -> None:
        """Adds sum_i amounts_i c_i to the L gradients, in place; amounts [m]."""

    def look(self, grads: Sequence[Tensor]) -> NDArray[np.float64]:
        """[m + k] the products with each c_i, then with k unit vectors orthogonal to most."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Canary i owns coordinate j_i, and k further coordinates are watched that nobody owns.

    Attributes:
        owned: [m] distinct, of the flattened trainable parameters.
        watched: [m + k] the same, then the others.
    """

    owned: NDArray[np.int64]
    watched: NDArray[np.int64]

    @property
    def label(self) -> str:
        """For people."""
        return f"{len(self.owned)} Dirac canaries"

    def add(self, grads: Sequence[Tensor], amounts: NDArray[np.float64]) -> None:
        """Adds sum_i amounts_i e_{j_i} to the L gradients, in place; amounts [m]."""
        for grad, which, place in _parts(grads, self.owned):
            values = torch.from_numpy(amounts[which] * _SHORTER).to(grad)
            grad.index_put_(place, values, accumulate=True)

    def look(self, grads: Sequence[Tensor]) -> NDArray[np.float64]:
        """[m + k] the watched coordinates."""
        seen = np.empty(len(self.watched))
        for grad, which, place in _parts(grads, self.watched):
            seen[which] = grad[place].double().cpu().numpy()
        return seen


def _parts(
    grads: Sequence[Tensor], coordinates: NDArray[np.int64]
) -> list[tuple[Tensor, NDArray[np.int64], tuple[Tensor, ...]]]:
    """(gradient, which of the coordinates lie in it, its indices at these) of L gradients."""
    parts, start = [], 0
    for grad in grads:
        end = start + grad.numel()
        which = np.flatnonzero((coordinates >= start) & (coordinates < end))
        flat = torch.from_numpy(coordinates[which] - start).to(grad.device)
        whole = grad if grad.dim() else grad.view(1)  # a number has no index
        parts.append((whole, which, torch.unravel_index(flat, whole.shape)))
        start = end
    return parts


@dataclass(frozen=True, eq=False)
class Spheres:
    """Canary i points to a random place on the sphere.

    Attributes:
        vectors: [m, d] float64, of length 1.
    """

    vectors: NDArray[np.float64]

    @property
    def label(self) -> str:
        """For people."""
        return f"{len(self.vectors)} random gradient canaries"

    def add(self, grads: Sequence[Tensor], amounts: NDArray[np.float64]) -> None:
        """Adds sum_i amounts_i c_i to the L gradients, in place; amounts [m]."""
        total, start = amounts @ self.vectors * _SHORTER, 0
        for grad in grads:
            part = torch.from_numpy(total[start : start + grad.numel()])
            grad.add_(part.view(grad.shape).to(grad))
            start += grad.numel()

    def look(self, grads: Sequence[Tensor]) -> NDArray[np.float64]:
        """[m] the products with each canary."""
        flat = torch.cat([grad.double().cpu().reshape(-1) for grad in grads])
        return np.asarray(self.vectors @ flat.numpy())
