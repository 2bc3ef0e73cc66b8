"""The epsilon of a history, and whose figure it is."""

from __future__ import annotations

from typing import NamedTuple

from dpclip.accounting.history import History, merged, rounded
from dpclip.accounting.prv import prv_bound
from dpclip.accounting.renyi import least, total

_PAIRS = 32  # different (noise multiplier, q) that are composed one by one


class Spent(NamedTuple):
    """An epsilon and where it comes from.

    Attributes:
        epsilon: an upper bound.
        by: the accountant whose figure it is, "prv" or "rdp".
        because: why that is another one, or another history, than was asked for; else empty.
    """

    epsilon: float
    by: str
    because: str = ""

    def __str__(self) -> str:
        return f"{self.by.upper()} accounting{f' ({self.because})' if self.because else ''}"


def check_accountant(mechanism: str) -> None:
    """Raises ValueError unless the accountant is one whose epsilon is an upper bound."""
    if mechanism not in ("prv", "rdp"):
        raise ValueError(
            f'accountant={mechanism!r} is not offered: expected "prv" or "rdp". '
            "(Gaussian-DP approximations report less than is spent.)"
        )


def epsilon(mechanism: str, history: History, delta: float) -> float:
    """Returns the add/remove epsilon of [(noise multiplier, q, steps), ...] at delta.

    Raises:
        ValueError: delta outside (0, 1).
    """
    return spent(mechanism, history, delta).epsilon


def spent(mechanism: str, history: History, delta: float) -> Spent:
    """Returns the add/remove epsilon of a history at delta, and whose figure it is.

    The RDP bound is valid wherever the PRV bound is, so it stands in where PRV fails numerically,
    and where it is the smaller (PRV adds its error bound, which is most of a tiny epsilon). A
    history of many different steps is first rounded up, see `rounded`.

    Raises:
        ValueError: delta outside (0, 1), or another accountant.
    """
    check_accountant(mechanism)
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: expected a number between 0 and 1, e.g. 1 / (10 N).")
    pairs = merged(history)
    if not pairs:
        return Spent(0.0, mechanism)
    few = rounded(pairs, _PAIRS)
    told = f"{len(pairs)} kinds of steps rounded up to {len(few)}" if len(few) < len(pairs) else ""
    bound = Spent(least(total(few), delta), "rdp", told)
    if mechanism == "rdp" or bound.epsilon == 0:
        return bound._replace(by=mechanism)
    found = prv_bound(few, delta)
    if isinstance(found, str):
        return bound._replace(because=found)
    if bound.epsilon < found:
        return bound._replace(because="which is below PRV's with its error bound")
    return Spent(found, "prv", told)
