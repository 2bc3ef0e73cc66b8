"""A small convolutional network that gives letters to frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audits.tasks.speech import alphabet
from audits.tasks.speech.frames import inside, normalised
from audits.tasks.speech.records import SUBSAMPLING, halved


class ConvCTC(nn.Module):
    """Residual convolutions over time: [B, T, M] features -> [B, ceil(T / 2), letters] log p.

    The first convolution halves the number of frames; each of the others sees its input normalised
    and rectified (He et al. 2016, figure 4e). What lies behind a record's own frames is zero before
    every convolution and outside of every normalization, as if the record were alone. The
    normalizations have no weights: learning is as good without them, and a step by per-sample
    methods is a fifth faster.

    Args:
        bands: M, of the features.
        width: channels of all convolutions.
        layers: residual ones; every other one leaves out every second frame it could see.
        kernel: their width in frames, odd.
        augment: what the features go through in training, such as `SpecAugment`; None for nothing.
    """

    def __init__(
        self,
        bands: int,
        width: int = 112,
        layers: int = 5,
        kernel: int = 5,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.augment = augment
        self.enter = nn.Conv1d(bands, width, 5, stride=SUBSAMPLING, padding=2)
        self.blocks = nn.ModuleList(_mix(width, kernel, 1 + i % 2) for i in range(layers))
        self.pooled = nn.Identity()
        self.head = nn.Linear(width, alphabet.SIZE)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Returns log probabilities of blank and letters, for frames [B] of each record."""
        if self.augment is not None:
            features = self.augment(features, frames)
        x = self.enter(features.transpose(1, 2) * inside(frames, features.shape[1]))
        seen = inside(halved(frames), x.shape[2])
        for block in self.blocks:
            x = x + block(torch.relu(normalised(x, seen)))
        x = torch.relu(normalised(x, seen))
        self.pooled(x.sum(2) / seen.sum(2))
        return self.head(x.transpose(1, 2)).log_softmax(2)  # type: ignore[no-any-return]


def _mix(width: int, kernel: int, dilation: int) -> nn.Conv1d:
    padding = kernel // 2 * dilation
    return nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation)
