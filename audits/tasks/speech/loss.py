"""The CTC loss of each record by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audits.tasks.speech.alphabet import BLANK
from audits.tasks.speech.records import Batch, halved


def record_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Returns [B] CTC losses (Graves et al. 2006), each divided by the record's own label count.

    Args:
        model: (features [B, T, M], frames [B]) -> log probabilities [B, T', letters].
        batch: of records whose frames suffice for their labels, see `records.least_frames`.

    Raises:
        ValueError: a record with more labels than its frames can hold, or without labels.
    """
    features, frames, labels, lengths = batch
    if bool((lengths == 0).any()):
        raise ValueError("A record has no labels: its loss per label is not defined.")
    steps = halved(frames)
    log_probs = model(features, frames)
    if log_probs.dtype.itemsize < 4:  # sums over alignments need more than half precision
        log_probs = log_probs.float()
    losses = nn.functional.ctc_loss(
        log_probs.transpose(0, 1), labels, steps, lengths, BLANK, reduction="none"
    )
    if bool(torch.isposinf(losses.detach()).any()):
        _refuse_short(batch, steps)
    return losses / lengths


def _refuse_short(batch: Batch, steps: Tensor) -> None:
    """Raises ValueError if a record cannot be aligned at all; else the model itself diverged."""
    _, frames, labels, lengths = batch
    inside = torch.arange(1, labels.shape[1], device=labels.device) < lengths[:, None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)
    if bool((short := steps < lengths + repeats).any()):
        i = int(short.nonzero()[0, 0])
        raise ValueError(
            f"A record of {int(frames[i])} frames has {int(lengths[i])} labels with "
            f"{int(repeats[i])} repeats, which need {2 * int(lengths[i] + repeats[i]) - 1} frames: "
            "make records with records.recorder, which adds the silence that is missing."
        )
