"""torchaudio's Conformer with a CTC head: [T, B, d] and [B, C, T] in one model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchaudio.models import Conformer
from torchaudio.models.conformer import ConformerLayer

from benchmarks.models.losses import ctc_losses
from benchmarks.models.workload import Batch, Workload, generator, seeded

_MELS, _SYMBOLS = 80, 32


class Recognizer(nn.Module):
    """Mel bands [B, T, 80] -> log-probabilities [B, T, 32] of the blank and 31 symbols."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.project, self.encoder = nn.Linear(_MELS, width), encoder
        self.head = nn.Linear(width, _SYMBOLS)

    def forward(self, mels: Tensor) -> Tensor:
        """Returns log-probabilities; every sample is as long as the batch."""
        b, t, _ = mels.shape
        lengths = torch.full((b,), t, device=mels.device)
        encoded, _ = self.encoder(self.project(mels), lengths)
        return nn.functional.log_softmax(self.head(encoded), dim=-1)


class BatchFirstLayer(ConformerLayer):  # type: ignore[misc]
    """torchaudio's layer on [B, T, d] in place of [T, B, d]."""

    def __init__(self, width: int, feed: int, heads: int, kernel: int) -> None:
        super().__init__(width, feed, heads, kernel, use_group_norm=True)
        self.self_attn.batch_first = True

    def _apply_convolution(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv_module(x)
        return x + convolved


class BatchFirst(nn.Module):
    """The encoder with the batch first in every layer: Opacus cannot train another."""

    def __init__(self, width: int, feed: int, heads: int, layers: int, kernel: int) -> None:
        super().__init__()
        each = (BatchFirstLayer(width, feed, heads, kernel) for _ in range(layers))
        self.conformer_layers = nn.ModuleList(each)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (frames [B, T, d], lengths), as torchaudio's does; nothing is padded."""
        for layer in self.conformer_layers:
            x = layer(x, None)
        return x, lengths


def conformer(
    width: int = 144,
    feed: int = 576,
    heads: int = 4,
    layers: int = 4,
    kernel: int = 31,
    *,
    shape: tuple[int, int, int] = (16, 200, 30),
    batch_first: bool = False,
) -> Workload:
    """Returns d=144, feed-forward 576, 4 heads, kernel 31, 4 layers, T=200, 30 labels.

    Args:
        width: d.
        feed: width of the feed-forward layers.
        heads: of each attention.
        layers: of the encoder.
        kernel: of the depthwise convolution.
        shape: samples, frames and labels of a batch.
        batch_first: whether the batch is the first axis everywhere.
    """
    batch, length, labels = shape

    def make_batch(seed: int) -> Batch:
        draws = generator(seed)
        mels = torch.randn(batch, length, _MELS, generator=draws)
        return Batch(mels, torch.randint(1, _SYMBOLS, (batch, labels), generator=draws))

    def build() -> nn.Module:
        if batch_first:
            return Recognizer(BatchFirst(width, feed, heads, layers, kernel), width)
        return Recognizer(Conformer(width, heads, feed, layers, kernel, use_group_norm=True), width)

    return Workload(seeded(build), make_batch, ctc_losses, features="project")
