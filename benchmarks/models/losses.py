"""Losses of each sample by itself: [B, ...] -> [B]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def class_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Returns [B] cross entropies of logits [B, K] and classes [B]."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def token_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Returns [B] mean cross entropies over time of logits [B, T, V] and tokens [B, T]."""
    each = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    return each.view(y.shape).mean(1)


def ctc_losses(log_probabilities: Tensor, y: Tensor) -> Tensor:
    """Returns [B] CTC losses per label of [B, T, V] and labels [B, L]; nothing is padded."""
    b, t, _ = log_probabilities.shape
    labels = y.shape[1]
    each = nn.functional.ctc_loss(
        log_probabilities.transpose(0, 1),
        y,
        torch.full((b,), t),
        torch.full((b,), labels),
        reduction="none",
    )
    return each / labels
