"""Markdown tables whose cells may have footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

from benchmarks.ways import Refusal


class Cell(NamedTuple):
    """One cell.

    Attributes:
        text: what stands in it.
        note: a sentence under the table, or None.
    """

    text: str
    note: str | None = None


def refused(refusal: Refusal) -> Cell:
    """Returns the cell of something that could not be measured."""
    return Cell("-", refusal.reason)


def markdown(corner: str, labels: Sequence[str], columns: Mapping[str, Sequence[Cell]]) -> str:
    """Returns the table and its footnotes; equal notes have one number.

    Args:
        corner: heading of the first column.
        labels: what stands in it.
        columns: heading -> a cell for each label.
    """
    numbers: dict[str, int] = {}

    def text(cell: Cell) -> str:
        if cell.note is None:
            return cell.text
        return f"{cell.text} [{numbers.setdefault(cell.note, len(numbers) + 1)}]"

    rows = zip(labels, *columns.values(), strict=True)
    lines = [[label, *map(text, cells)] for label, *cells in rows]
    body = tabulate(lines, headers=[corner, *columns], tablefmt="github", disable_numparse=True)
    notes = [f"[{number}] {note}" for note, number in numbers.items()]
    return "\n\n".join([body, *notes])
