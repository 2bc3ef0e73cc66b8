"""Utterances in disjoint parts, and what canaries may be made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from audits.tasks.speech.records import Utterance

_WORDS = 10_000  # of the vocabulary, at most


@dataclass(frozen=True)
class Corpus:
    """What a speech task is made of; no utterance is in two parts.

    Attributes:
        train: (waveform [n] float32, normalised text) each.
        validation: for choosing a learning rate.
        test: for reporting.
        pool: held out of training for canaries; may be empty.
        sample_rate: of all waveforms, in Hz.
        words: of the training transcripts, the most frequent first, at most 10,000.
        single_words: for each speaker word -> held-out recordings of it alone, none of them
            trained on; empty where the data has none.
        facts: what a report should say of the data.
    """

    train: Sequence[Utterance]
    validation: Sequence[Utterance]
    test: Sequence[Utterance]
    pool: Sequence[Utterance]
    sample_rate: int
    words: tuple[str, ...]
    single_words: Sequence[Mapping[str, Sequence[NDArray[np.float32]]]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses parts that nothing can be trained or measured with."""
        for name in ("train", "validation", "test"):
            if not getattr(self, name):
                raise ValueError(f"The corpus has no {name} utterances: expected at least one.")


def words_of(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    """Returns the words of transcripts by frequency, equally frequent ones in alphabetical order.

    Args:
        utterances: with normalised texts; the 10,000 most frequent words are kept.
    """
    counted = Counter(word for _, text in utterances for word in text.split())
    ordered = sorted(counted, key=lambda word: (-counted[word], word))
    return tuple(ordered[:_WORDS])
