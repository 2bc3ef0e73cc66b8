"""Looking at a record's own frames only, whatever it is padded to."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def inside(frames: Tensor, longest: int) -> Tensor:
    """Returns [B, 1, T] bool, true at a record's own frames and false behind them.

    Args:
        frames: [B] of each record.
        longest: T.
    """
    places = torch.arange(longest, device=frames.device)
    return (places < frames[:, None])[:, None]


def normalised(x: Tensor, seen: Tensor, eps: float = 1e-5) -> Tensor:
    """Returns x with mean 0 and variance 1 over a record's own frames and all channels.

    This is group normalization with one group (Wu & He 2018), without scale and shift.

    Args:
        x: [B, C, T].
        seen: [B, 1, T], see `inside`; behind the frames the result is 0.
        eps: added to the variance.
    """
    seen = seen.to(x.dtype)
    cells = seen.sum(2, keepdim=True) * x.shape[1]
    centred = (x - (x * seen).sum((1, 2), keepdim=True) / cells) * seen
    variance = centred.square().sum((1, 2), keepdim=True) / cells
    return centred * (variance + eps).rsqrt()


class MaskedNorm(nn.Module):
    """`normalised`, with a scale and a shift of each channel.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Returns [B, C, T]; what lies behind the frames in `seen` is the shift."""
        return normalised(x, seen) * self.weight[:, None] + self.bias[:, None]
