"""LibriSpeech's own layout: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with .flac beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from audits.tasks.speech.listing import Entry, lines_of, split_of

_ENDING = ".trans.txt"


def listed(folder: Path) -> list[Entry]:
    """Returns what the transcripts below a folder list, in the order of names; may be nothing.

    Links to folders are followed.

    Args:
        folder: LibriSpeech itself, where the folders of its parts, such as train-clean-100, tell
            the splits; or one part or one speaker, where nothing does.

    Raises:
        ValueError: a folder or file that cannot be read, a part that is a link to nothing, a file
            that is no UTF-8, or a line that is not NAME TEXT.
    """
    try:
        files = sorted(_below(folder, frozenset()))
    except OSError as error:
        raise ValueError(
            f"{folder} has a folder that cannot be looked into ({error}): what is in it would be "
            "missing. Make it readable, or move it away."
        ) from error
    return [_entry(folder, file, line.strip()) for file in files for _, line in lines_of(file)]


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yields the transcripts below a folder; `above` are real paths of those it is in."""
    real = os.path.realpath(folder)
    if real in above:  # a link back, to what is being walked already
        return
    for inner in folder.iterdir():
        if inner.is_dir():
            yield from _below(inner, above | {real})
        elif inner.name.endswith(_ENDING):
            yield inner
        elif inner.is_symlink() and not inner.exists() and split_of(inner.name):
            raise ValueError(f"{inner} is a link to nothing: expected a part of LibriSpeech.")


def _entry(folder: Path, file: Path, line: str) -> Entry:
    name, _, text = line.partition(" ")
    if not name.startswith(start := file.name.removesuffix(_ENDING) + "-"):
        raise ValueError(
            f"{file} has the line {line[:60]!r}: expected {start}NUMBER and its transcript."
        )
    audio = file.with_name(f"{name}.flac")
    inside = audio.relative_to(folder)
    above = (split_of(part) for part in reversed(inside.parent.parts))
    split = next((found for found in above if found), "")
    return Entry(inside.as_posix(), audio, text, split, name.split("-")[0])
