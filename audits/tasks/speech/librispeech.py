"""LibriSpeech's own layout: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with .flac beside it."""

from __future__ import annotations

from pathlib import Path

from audits.tasks.speech.listing import Entry, split_of

_ENDING = ".trans.txt"


def listed(folder: Path) -> list[Entry]:
    """Returns what the transcripts below a folder list, in the order of names; may be nothing.

    Args:
        folder: LibriSpeech itself, where the folders of its parts, such as train-clean-100, tell
            the splits; or one part or one speaker, where nothing does.

    Raises:
        ValueError: a file that is no UTF-8, or a line that is not NAME TEXT.
    """
    files = sorted(folder.rglob(f"*{_ENDING}"))
    return [entry for file in files for entry in _transcripts(folder, file)]


def _transcripts(folder: Path, file: Path) -> list[Entry]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): expected transcripts.") from error
    return [_entry(folder, file, line.strip()) for line in lines if line.strip()]


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
