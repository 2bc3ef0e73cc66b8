"""Noise distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from dpclip.types import Noise


def gaussian() -> Noise:
    """Returns independent normal noise for each coordinate (Abadi et al. 2016, Algorithm 1)."""

    def sample(like: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
        return torch.normal(
            0.0, std, like.shape, generator=generator, dtype=like.dtype, device=like.device
        )

    return Noise(label="gaussian()", sample=sample)
