"""Recordings that a table lists: manifest.tsv."""

from __future__ import annotations

from pathlib import Path

from audits.tasks.speech.listing import Entry, lines_of, split_of

NAME = "manifest.tsv"
_NEEDED = ("path", "text")


def listed(file: Path) -> list[Entry]:
    """Returns what the lines of a tab-separated table list.

    Its header names at least the columns path (relative to the table's folder) and text; split
    (train, validation or test, or LibriSpeech's names such as dev-clean) and speaker are used
    where they are there, other columns are not. A cell may be in double quotes, which are left
    out; blank lines are passed over.

    Args:
        file: the table, UTF-8.

    Raises:
        ValueError: a file that cannot be read, no UTF-8, a missing column, a line with too few or
            too many cells, or a split that is not known.
    """
    (_, first), *lines = lines_of(file) or [(1, "")]
    header = [name.lower() for name in _cells(first)]
    if missing := [name for name in _NEEDED if name not in header]:
        raise ValueError(
            f"{file} has the columns {', '.join(filter(None, header)) or 'none'}, without "
            f"{missing[0]}: expected a header with path and text, separated by tabs."
        )
    return [_entry(file, number, header, _cells(line)) for number, line in lines]


def _cells(line: str) -> list[str]:
    return [_unquoted(cell.strip()) for cell in line.split("\t")]


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].strip() if quoted else cell


def _entry(file: Path, number: int, header: list[str], row: list[str]) -> Entry:
    if len(row) != len(header):
        raise ValueError(
            f"{file} has {len(header)} columns, and line {number} {len(row)} cells: expected "
            "as many of both, separated by single tabs."
        )
    cells = dict(zip(header, row, strict=True))
    split = cells.get("split", "")
    if split and not split_of(split):
        raise ValueError(
            f"{file} has the split {split!r} in line {number}: expected train, validation, test, "
            "or names that begin so, such as dev-clean."
        )
    name = cells["path"]
    if not name:
        raise ValueError(f"{file} has no path in line {number}.")
    speaker = cells.get("speaker", "")
    return Entry(name, file.parent / name, cells["text"], split_of(split), speaker)
