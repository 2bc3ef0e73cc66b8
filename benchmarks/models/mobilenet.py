"""Depthwise-separable convolutions with GroupNorm, after MobileNet (arXiv 1704.04861)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from benchmarks.models.data import labelled
from benchmarks.models.losses import class_losses
from benchmarks.models.workload import Workload, seeded


def mobilenet(
    widths: Sequence[int] = (32, 64, 128, 128, 256), size: int = 32, batch: int = 64
) -> Workload:
    """Returns a stem and four separable convolutions, every second one of stride 2.

    Args:
        widths: channels of the stem and of each separable convolution.
        size: pixels of a side.
        batch: B.
    """

    def build() -> nn.Module:
        stem = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), *_after(widths[0])]
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(pairwise(widths)):
            depthwise = nn.Conv2d(a, a, 3, 1 + number % 2, padding=1, groups=a, bias=False)
            pointwise = nn.Conv2d(a, b, 1, bias=False)
            layers += [depthwise, *_after(a), pointwise, *_after(b)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
        return nn.Sequential(*stem, *layers, *head)

    model, data = seeded(build), labelled((batch, 3, size, size), classes=10)
    flat = 6 * len(widths) - 2  # the head's flattening
    return Workload(model, data, class_losses, features=f"{flat}")


def _after(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(min(8, channels // 2), channels), nn.ReLU()]
