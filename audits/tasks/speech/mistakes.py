"""How far transcripts are from what was said: word and character error rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from audits.tasks.speech.decoding import Decoder, greedy, transcribe
from audits.tasks.speech.extra import needed
from audits.tasks.speech.records import transcript


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Returns the word error rate: edits of all texts together per word of the references.

    Args:
        references: what was said, each with at least one word.
        hypotheses: what was heard, as many; may be empty texts.

    Raises:
        ModuleNotFoundError: jiwer is missing.
        ValueError: none, not as many of both, or an empty reference.
    """
    _check(references, hypotheses)
    return float(needed("jiwer").wer(list(references), list(hypotheses)))


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Returns the character error rate: edits of all texts together per letter or space.

    Args:
        references: what was said, none of them empty.
        hypotheses: what was heard, as many.

    Raises:
        ModuleNotFoundError: jiwer is missing.
        ValueError: none, not as many of both, or an empty reference.
    """
    _check(references, hypotheses)
    return float(needed("jiwer").cer(list(references), list(hypotheses)))


def record_cers(references: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float64]:
    """Returns the [n] character error rates of each text by itself; errors as for `cer`."""
    _check(references, hypotheses)
    rate = needed("jiwer").cer
    return np.array([rate(*pair) for pair in zip(references, hypotheses, strict=True)])


def record_errors(model: nn.Module, records: Any, decoder: Decoder = greedy) -> NDArray[np.float64]:
    """Returns [n] character error rates of what a model hears in each record: 0 where it is right.

    Args:
        model: (features, frames) -> log probabilities.
        records: training records; their labels are the references.
        decoder: `greedy`, or a `beam`.

    Raises:
        ModuleNotFoundError: jiwer is missing.
    """
    if not len(records):
        return np.empty(0)
    said = [transcript(records[i]) for i in range(len(records))]
    return record_cers(said, transcribe(model, records, decoder))


def _check(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if isinstance(references, str) or isinstance(hypotheses, str):
        raise ValueError("Found one string: expected sequences of texts, [text] for a single one.")
    if not references or len(references) != len(hypotheses):
        raise ValueError(
            f"Found {len(references)} references and {len(hypotheses)} hypotheses: expected as "
            "many of both, and at least one."
        )
    if empty := [i for i, text in enumerate(references) if not text.strip()]:
        raise ValueError(
            f"{len(empty)} of {len(references)} references are empty, first number {empty[0]}: an "
            "error rate divides by their length."
        )
