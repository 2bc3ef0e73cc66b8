"""Which records go through a model at once where no gradients are summed."""

from __future__ import annotations

from collections.abc import Sequence

ROWS = 512
"""Records at once, at most."""


def in_order(n: int, rows: int = ROWS) -> list[list[int]]:
    """Returns the places 0 to n - 1 as they come, in parts of at most `rows`."""
    return [list(range(start, min(start + rows, n))) for start in range(0, n, rows)]


def parts_of(lengths: Sequence[int], size: int | None, rows: int = ROWS) -> list[list[int]]:
    """Returns the places of records by length, in parts.

    Args:
        lengths: [n], of each record.
        size: records times the longest of them, at most; a record that is longer goes alone. None
            for any size.
        rows: of a part, at most.
    """
    parts: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Lengths rise, so this record would be the longest of the part.
        many = len(parts[-1]) + 1 if parts else rows + 1
        if many <= rows and (size is None or many * lengths[place] <= size):
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts
