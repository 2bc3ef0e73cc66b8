"""What a look at a training run has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Finding(NamedTuple):
    """Something that was found.

    Attributes:
        voids: whether epsilon is inf because of it.
        text: what, as a clause.
    """

    voids: bool
    text: str


def listed(names: Sequence[str]) -> str:
    """Returns a few of the names."""
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
