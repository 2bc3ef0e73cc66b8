"""A convolutional network with GroupNorm, half a million parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from benchmarks.models.data import labelled
from benchmarks.models.losses import class_losses
from benchmarks.models.workload import Workload, seeded


def cnn(
    widths: Sequence[int] = (32, 64, 128, 256), size: int = 32, batch: int = 128, groups: int = 8
) -> Workload:
    """Returns 3x3 convolutions 3-32-64-128-256, pooled after the second and third, and a head.

    Args:
        widths: channels of each convolution.
        size: pixels of a side.
        batch: B.
        groups: of each GroupNorm.
    """

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(pairwise((3, *widths))):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(groups, b), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (1, 2) else []
        d = widths[-1]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, d), nn.ReLU()]
        return nn.Sequential(*layers, *head, nn.Linear(d, 10))

    model, data = seeded(build), labelled((batch, 3, size, size), classes=10)
    dense = 3 * len(widths) + 4  # behind two poolings, the average and the flattening
    return Workload(model, data, class_losses, features=f"{dense}")
