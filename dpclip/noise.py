"""Noise distributions."""

from __future__ import annotations

from dpclip.types import Noise


def gaussian() -> Noise:
    """Returns independent normal noise for each coordinate (Abadi et al. 2016, Algorithm 1)."""
    return Noise(label="gaussian()", sample=lambda like, std, stream: stream.normal(like, std))
