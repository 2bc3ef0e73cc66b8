"""Ways that cannot run a model: the one place where exceptions become a footnote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """Why something could not be measured."""

    reason: str


def attempt(work: Callable[[], T]) -> T | Refusal:
    """Returns what the work returns, or the first line of the exception it raises."""
    try:
        return work()
    except Exception as error:  # other people's libraries raise what they like
        lines = str(error).strip().splitlines() or [""]
        return Refusal(f"{type(error).__name__}: {lines[0]}")
