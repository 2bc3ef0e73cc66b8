"""The letters that transcripts are written with: a to z, the apostrophe and the space."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

BLANK = 0
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
"""Label i + 1 is letter i; label 0 is the blank of CTC (Graves et al. 2006)."""

SIZE = len(LETTERS) + 1

_LABELS = {letter: label for label, letter in enumerate(LETTERS, start=1)}
_PUNCTUATION = str.maketrans(
    dict.fromkeys('.,;:!?"()[]{}-\u2010\u2011\u2012\u2013\u2014\u2015\u2026\u00ab\u00bb', " ")
)
_APOSTROPHES = str.maketrans("\u2019\u2018\u201c\u201d", "''  ")


def normalised(text: str) -> str:
    """Returns a transcript in the letters of the alphabet, with single spaces.

    Capitals become small, letters lose their accents, typographic apostrophes become plain ones,
    and marks of punctuation and hyphens become spaces.

    Args:
        text: one transcript.

    Raises:
        ValueError: nothing is left, or there are other characters, such as digits or letters of
            another script: what they sound like cannot be known.
    """
    plain = unicodedata.normalize("NFKD", text.lower().translate(_APOSTROPHES))
    bare = "".join(c for c in plain if not unicodedata.combining(c)).translate(_PUNCTUATION)
    found = " ".join(bare.split())
    if strange := sorted(set(found) - set(LETTERS)):
        raise ValueError(
            f"the transcript {text!r} has {''.join(strange)!r}: expected the letters a to z, "
            "apostrophes and spaces. Spell numbers and signs out as they are spoken"
        )
    if not found.replace("'", "").strip():
        raise ValueError(f"the transcript {text!r} has no letters")
    return found


def labels(text: str) -> Tensor:
    """Returns [L] int64 labels of a normalised text.

    Args:
        text: see `normalised`.

    Raises:
        ValueError: a letter outside of the alphabet.
    """
    if strange := sorted(set(text) - set(LETTERS)):
        raise ValueError(f"{text!r} has {''.join(strange)!r}: expected letters of {LETTERS!r}.")
    return torch.tensor([_LABELS[letter] for letter in text], dtype=torch.int64)


def text(labels: Sequence[int]) -> str:
    """Returns the text of labels, none of them blank, with single spaces between words."""
    return " ".join("".join(LETTERS[label - 1] for label in labels).split())
