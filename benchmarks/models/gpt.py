"""A language model of GPT's kind, with a head of its own or tied to the embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models.blocks import Block
from benchmarks.models.data import tokens
from benchmarks.models.losses import token_losses
from benchmarks.models.workload import Workload, seeded


class Gpt(nn.Module):
    """Tokens [B, T] -> logits [B, T, V], positions learned."""

    def __init__(
        self, vocabulary: int, length: int, width: int, layers: int, heads: int, tied: bool
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of the token after each position."""
        b, t = x.shape
        # Ids for each sample, in memory: Opacus takes neither [T] nor, for ghosts, an expanded one.
        steps = torch.arange(t, device=x.device).repeat(b, 1)
        stream = self.blocks(self.tokens(x) + self.positions(steps))
        logits: Tensor = self.head(self.norm(stream))
        return logits


def gpt(
    tied: bool = False,
    *,
    vocabulary: int = 2000,
    length: int = 128,
    width: int = 256,
    layers: int = 4,
    heads: int = 4,
    batch: int = 32,
) -> Workload:
    """Returns d=256, 4 layers, T=128, vocabulary 2,000.

    Args:
        tied: whether the head's weight is the embedding's.
        vocabulary: V.
        length: T.
        width: d.
        layers: blocks.
        heads: of each attention.
        batch: B.
    """
    model = seeded(lambda: Gpt(vocabulary, length, width, layers, heads, tied))
    data = tokens(batch, length, vocabulary, vocabulary)
    return Workload(model, data, token_losses, features="blocks.1")
