"""Ways a command ends that have an exit code of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Usage(Exception):
    """Something was asked for that cannot be done: exit code 2."""


class Contradicted(Exception):
    """An audit's lower bound exceeds a claimed epsilon: exit code 3."""


def asked(get: Callable[[], T]) -> T:
    """Returns what `get` does; a ValueError or a missing file is the user's to mend."""
    try:
        return get()
    except (ValueError, FileNotFoundError) as error:
        raise Usage(str(error)) from error
