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
        key: what tells recordings apart besides their files; empty for nothing.
    """

    name: str
    file: Path
    text: str
    split: str = ""
    speaker: str = ""
    key: str = ""


_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def lines_of(file: Path) -> list[tuple[int, str]]:
    """Returns (number from 1, line) of each line that is not blank.

    Only the ends of lines of a text file end a line: transcripts may have other separators inside.

    Args:
        file: UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it cannot be read, or is no UTF-8.
    """
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): expected text.") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error}): expected a file of text.") from error
    return [(at, line) for at, line in enumerate(text.split("\n"), start=1) if line.strip()]


def split_of(name: str) -> str:
    """Returns train, validation or test for a split's name, such as train-clean-100; else "".

    Args:
        name: as data sets have it; what comes before the first hyphen or underscore counts.
    """
    return _SPLITS.get(name.strip().lower().replace("_", "-").split("-")[0], "")
