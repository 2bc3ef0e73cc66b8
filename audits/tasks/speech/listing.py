"""What a data set's own files say of a recording, before anybody listens to it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One recording that a layout lists.

    Attributes:
        name: relative to the data's folder.
        file: where it is.
        text: its transcript as it stands there.
        split: train, validation or test; empty where the layout does not say.
        speaker: empty where the layout does not say.
    """

    name: str
    file: Path
    text: str
    split: str = ""
    speaker: str = ""


_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def split_of(name: str) -> str:
    """Returns train, validation or test for a split's name, such as train-clean-100; else "".

    Args:
        name: as data sets have it; what comes before the first hyphen or underscore counts.
    """
    return _SPLITS.get(name.strip().lower().replace("_", "-").split("-")[0], "")
