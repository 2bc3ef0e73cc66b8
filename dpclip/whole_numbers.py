"""Numbers of things that are counted."""

from __future__ import annotations

from numbers import Integral


def check_count(argument: str, value: object, what: str) -> None:
    """Raises ValueError unless the value is a whole number, 1 or more.

    Args:
        argument: what the message calls it, e.g. "clusters(k".
        value: as the caller gave it; True is no number.
        what: that is counted, e.g. "clusters".
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{argument}={value!r}): expected a whole number of {what}, at least 1.")
