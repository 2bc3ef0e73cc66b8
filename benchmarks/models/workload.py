"""What is benchmarked: a model, its data and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Inputs [B, ...] and targets [B, ...]."""

    x: Tensor
    y: Tensor

    @property
    def samples(self) -> int:
        """B."""
        return len(self.x)


Losses = Callable[[Tensor, Tensor], Tensor]
"""(output, targets) -> [B] loss of each sample by itself."""


@dataclass(frozen=True)
class Workload:
    """A model with data that have its shapes.

    Attributes:
        model: the model, in training mode, always with the same initial weights.
        make_batch: seed -> a batch of random data.
        losses: (output, targets) -> [B] loss of each sample by itself.
        features: name of a submodule whose output describes a sample, for clusters.
    """

    model: nn.Module
    make_batch: Callable[[int], Batch]
    losses: Losses
    features: str

    def to(self, device: torch.device) -> Workload:
        """Returns the same on another device; random data are drawn on the CPU all the same."""

        def make_batch(seed: int) -> Batch:
            x, y = self.make_batch(seed)
            return Batch(x.to(device), y.to(device))

        return replace(self, model=self.model.to(device), make_batch=make_batch)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Returns the model with the same weights every time, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def generator(seed: int) -> torch.Generator:
    """Returns the source of a batch's random numbers."""
    return torch.Generator().manual_seed(seed)
