"""SpecAugment: bands and stretches of time that a model does not see while it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audits.tasks.speech.extra import needed


class SpecAugment(nn.Module):
    """Masks of each record by itself, inside its own frames (Park et al. 2019), in training mode.

    Masked cells become 0, which is the mean of a record's features.

    Args:
        times: masks over time.
        frames: of the widest mask over time; it covers a fifth of the record at most.
        bands: masks over frequency.
        width: bands of the widest mask over frequency.

    Raises:
        ModuleNotFoundError: torchaudio is missing.
    """

    def __init__(self, times: int = 2, frames: int = 25, bands: int = 2, width: int = 8) -> None:
        super().__init__()
        self._masked: Any = needed("torchaudio.transforms").SpecAugment(
            n_time_masks=times,
            time_mask_param=frames,
            n_freq_masks=bands,
            freq_mask_param=width,
            p=0.2,
            zero_masking=True,
        )

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Returns features [B, T, M] with masks, or as they are in eval mode.

        Args:
            features: [B, T, M].
            frames: [B], how many of T are the record's.
        """
        if not self.training:
            return features
        masked = torch.zeros_like(features)
        for row, seen, many in zip(masked, features, frames.tolist(), strict=True):
            row[:many] = self._masked(seen[:many].T).T
        return masked
