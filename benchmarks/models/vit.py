"""A vision transformer whose class token and positions are bare parameters of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models.blocks import Block
from benchmarks.models.data import labelled
from benchmarks.models.losses import class_losses
from benchmarks.models.workload import Workload, seeded


class Vit(nn.Module):
    """Images [B, 3, S, S] -> logits [B, 10]."""

    def __init__(self, size: int, patch: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits that the class token has gathered."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        stream = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        stream = self.blocks(stream + self.positions)
        logits: Tensor = self.head(self.norm(stream[:, 0]))
        return logits


def vit(
    width: int = 192,
    layers: int = 4,
    heads: int = 4,
    *,
    size: int = 32,
    patch: int = 4,
    batch: int = 64,
) -> Workload:
    """Returns d=192, 4 layers, 64 patches of 4x4 pixels and a class token.

    Args:
        width: d.
        layers: blocks.
        heads: of each attention.
        size: pixels of an image's side.
        patch: pixels of a patch's side.
        batch: B.
    """
    model = seeded(lambda: Vit(size, patch, width, layers, heads))
    data = labelled((batch, 3, size, size), classes=10)
    return Workload(model, data, class_losses, features="blocks.1")
