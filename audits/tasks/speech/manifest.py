"""Recordings that a table lists: manifest.tsv."""

from __future__ import annotations

import csv
from pathlib import Path

from audits.tasks.speech.listing import Entry, split_of

NAME = "manifest.tsv"
_NEEDED = ("path", "text")


def listed(file: Path) -> list[Entry]:
    """Returns what the lines of a tab-separated table list.

    Its header names at least the columns path (relative to the table's folder) and text; split
    (train, validation or test, or LibriSpeech's names such as dev-clean) and speaker are used
    where they are there, other columns are not.

    Args:
        file: the table, UTF-8.

    Raises:
        ValueError: no UTF-8, a missing column, a line with too few or too many cells, a recording
            that is listed twice, or a split that is not known.
    """
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): expected a table of text.") from error
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = [name.strip().lower() for name in next(rows, [])]
    if missing := [name for name in _NEEDED if name not in header]:
        raise ValueError(
            f"{file} has the columns {', '.join(header) or 'none'}, without {missing[0]}: expected "
            "a header with path and text, separated by tabs."
        )
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{file} has {len(header)} columns, and line {number} {len(row)} cells: expected "
                "as many of both, separated by single tabs."
            )
        entry = _entry(file, number, dict(zip(header, row, strict=True)))
        if entry.name in entries:
            raise ValueError(f"{file} lists {entry.name} twice, again in line {number}.")
        entries[entry.name] = entry
    return list(entries.values())


def _entry(file: Path, number: int, cells: dict[str, str]) -> Entry:
    named = cells.get("split", "").strip()
    if named and not split_of(named):
        raise ValueError(
            f"{file} has the split {named!r} in line {number}: expected train, validation, test, "
            "or names that begin so, such as dev-clean."
        )
    name = cells["path"].strip()
    if not name:
        raise ValueError(f"{file} has no path in line {number}.")
    speaker = cells.get("speaker", "").strip()
    return Entry(name, file.parent / name, cells["text"], split_of(named), speaker)
