"""An MLP on digits: the smallest model, where every overhead shows."""

from __future__ import annotations

from torch import nn

from benchmarks.models.data import labelled
from benchmarks.models.losses import class_losses
from benchmarks.models.workload import Workload, seeded


def mlp(width: int = 128, batch: int = 256) -> Workload:
    """Returns 64-128-128-10 with ReLU."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )

    return Workload(seeded(build), labelled((batch, 64), classes=10), class_losses, "2")
