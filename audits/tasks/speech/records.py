"""Training records (features [T, M], labels [L]), and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from audits.tasks.speech import alphabet
from audits.tasks.speech.mel import Mel

Utterance: TypeAlias = tuple[NDArray[np.float32], str]
"""(waveform [n], its transcript)."""

Record: TypeAlias = tuple[Tensor, Tensor]
"""(features [T, M] float32, labels [L] int64); T and L differ by record."""

SUBSAMPLING = 2
"""Frames of 10 ms that become one inside every model: T' = ceil(T / 2)."""

PHYSICAL = 12_800
"""Frames that go through a model at once, padding included: 128 seconds."""


class Batch(NamedTuple):
    """Records, padded with zeros to the longest.

    Attributes:
        features: [B, T, M] float32.
        frames: [B] int64, how many of T are the record's.
        labels: [B, L] int64.
        lengths: [B] int64, how many of L are the record's.
    """

    features: Tensor
    frames: Tensor
    labels: Tensor
    lengths: Tensor


class Utterances(Dataset[Record]):
    """Records in memory.

    Args:
        records: of any lengths.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def collate(records: Sequence[Record]) -> Batch:
    """Returns records as one padded batch; a model must not look at the padding."""
    features = [record[0] for record in records]
    labels = [record[1] for record in records]
    return Batch(
        pad_sequence(features, batch_first=True),
        torch.tensor([len(f) for f in features]),
        pad_sequence(labels, batch_first=True),
        torch.tensor([len(row) for row in labels]),
    )


def frames_of(record: Record) -> int:
    """Returns T, how many frames a record has."""
    return len(record[0])


def lengths(records: Any) -> list[int]:
    """Returns [n] frames of each record of a data set or sequence."""
    return [frames_of(records[i]) for i in range(len(records))]


def halved(frames: Tensor) -> Tensor:
    """Returns [B] frames after subsampling: ceil(frames / 2)."""
    return (frames + SUBSAMPLING - 1) // SUBSAMPLING


def least_frames(labels: Tensor) -> int:
    """Returns how many frames a record needs, so that its CTC loss is finite.

    After subsampling one for each label, and one for the blank between two equal ones.
    """
    repeats = int((labels[1:] == labels[:-1]).sum())
    return SUBSAMPLING * (len(labels) + repeats - 1) + 1


def recorder(mel: Mel) -> Callable[[Utterance], Record]:
    """Returns what makes a record of an utterance, in the same way for data and canaries.

    A waveform with fewer frames than its transcript needs (see `least_frames`) gets as much
    silence at its end as is missing: the length depends on this record alone.
    """

    def record(utterance: Utterance) -> Record:
        waveform, text = utterance
        row = alphabet.labels(text)
        missing = mel.samples(least_frames(row)) - len(waveform)
        return mel(np.pad(waveform, (0, max(0, missing)))), row

    return record


def short(mel: Mel, utterance: Utterance) -> bool:
    """Returns whether an utterance needs silence at its end, see `recorder`."""
    waveform, text = utterance
    return len(waveform) < mel.samples(least_frames(alphabet.labels(text)))


def transcript(record: Record) -> str:
    """Returns the text of a record's labels."""
    return alphabet.text(record[1].tolist())
