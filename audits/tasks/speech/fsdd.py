"""The Free Spoken Digit Dataset: recordings of single digits, and strings of them."""

from __future__ import annotations

import re
from pathlib import Path

from audits.tasks.speech.listing import Entry

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.(?:flac|wav)", re.IGNORECASE)
_TESTED = 5  # the official test part is index 0 to 4


def listed(folder: Path) -> list[Entry]:
    """Returns what the names digit_speaker_index.flac (or .wav) in a folder list; may be nothing.

    A digit, speaker and index are one recording, in whichever format.

    Args:
        folder: with the recordings, or with a folder `recordings` that has them. Index 0 to 4 are
            the official test part.
    """
    found = [(file, match) for file in _files(folder) if (match := _NAME.fullmatch(file.name))]
    return [
        Entry(
            file.relative_to(folder).as_posix(),
            file,
            WORDS[int(match[1])],
            "test" if int(match[3]) < _TESTED else "train",
            match[2],
            f"{match[1]}_{match[2]}_{int(match[3])}",
        )
        for file, match in found
    ]


def _files(folder: Path) -> list[Path]:
    inner = folder / "recordings"
    return sorted((inner if inner.is_dir() else folder).iterdir())
