"""What a reader must know before believing the audit's tests and bounds."""

import math
from collections.abc import Callable, Sequence

from reports.arms import arm_name
from reports.claims import claims_epsilon, out_of_reach
from reports.rows import Row, number, text

LEVEL = 0.01
LISTED = 4  # arms named before the rest is only counted


def audit_remarks(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each thing that limits, or speaks against, what the audit found.

    Columns that were not recorded lead to no remark, but for the ceiling of a bound that is set
    against a claim: without it nobody knows whether the audit could have found anything.
    """
    return [
        *_before(rows),
        *_coins(rows),
        *_ceilings(rows),
        *_unknown_ceilings(rows),
        *_gradients(rows),
    ]


def _before(rows: Sequence[Row]) -> list[str]:
    found = _rare(rows, "before_p")
    if not found:
        return []
    return [
        f"TEST BEFORE TRAINING FAILED {found}: canaries and references differ from the start, and "
        "exposure may show that difference instead of memorization. What rests on the coins alone, "
        "AUC and bounds on epsilon, is not affected."
    ]


def _coins(rows: Sequence[Row]) -> list[str]:
    """Returns what coins flipped again show; gradient canaries may be found, records should not."""
    again = "Coins flipped again agree with the scores as well as the true ones in less than 1 %"
    records = _rare([row for row in rows if not _by_gradients(row)], "coin_p")
    gradients = _rare([row for row in rows if _by_gradients(row)], "coin_p")
    told = []
    if records:
        told.append(
            f"{again} of cases {records}: these models tell inserted canaries from held-out ones, "
            "even where the bound on epsilon is 0."
        )
    if gradients:
        told.append(
            f"{again} of cases {gradients}: the updates tell which gradient canaries took part, "
            "as every epsilon above 0 allows to some extent; the bound says to what extent."
        )
    return told


def _ceilings(rows: Sequence[Row]) -> list[str]:
    found = _where(rows, out_of_reach, _reach)
    if not found:
        return []
    return [
        f"Out of the audit's reach: {found}. Even a perfect attack of this design could not have "
        "contradicted these claims; more canaries or more guesses raise the ceiling."
    ]


def _unknown_ceilings(rows: Sequence[Row]) -> list[str]:
    found = _where(rows, _unknown_ceiling, arm_name)
    if not found:
        return []
    return [
        f"What a perfect attack could have shown is not recorded for {found}: a lower bound below "
        "the claim may only mean that the audit was weak."
    ]


def _gradients(rows: Sequence[Row]) -> list[str]:
    found = _where(rows, _by_gradients, arm_name)
    if not found:
        return []
    return [
        f"The lower bound comes from gradient canaries for {found}: they test the weighting rule, "
        "the noise and the number of steps against somebody who sees every update of a run with "
        "these settings, not the norms of records, their grouping or how they are drawn; what the "
        "trained model tells about records is in exposure and AUC."
    ]


def _by_gradients(row: Row) -> bool:
    return text(row, "eps_lb_by") == "gradient canaries"


def _unknown_ceiling(row: Row) -> bool:
    bounded = not math.isnan(number(row, "eps_lb"))
    return bounded and claims_epsilon(row) and math.isnan(number(row, "eps_lb_ceiling"))


def _reach(row: Row) -> str:
    ceiling, claim = number(row, "eps_lb_ceiling"), number(row, "eps")
    return f"{arm_name(row)} (ceiling {ceiling:.3g}, claim {claim:.3g})"


def _rare(rows: Sequence[Row], column: str) -> str:
    """Returns in how many runs, and of which arms, a p-value is below 1 %, and chance's share."""
    tested = [row for row in rows if not math.isnan(number(row, column))]
    rare = [row for row in tested if number(row, column) < LEVEL]
    if not rare:
        return ""
    chance = f"{LEVEL * len(tested):.2g}"
    runs = "1 run" if len(tested) == 1 else f"{len(tested)} runs"
    return f"in {len(rare)} of {runs} ({_names(rare, arm_name)}; {chance} expected by chance)"


def _where(rows: Sequence[Row], chosen: Callable[[Row], bool], named: Callable[[Row], str]) -> str:
    return _names([row for row in rows if chosen(row)], named)


def _names(rows: Sequence[Row], named: Callable[[Row], str]) -> str:
    """Returns the arms of the rows, each once by its first run, the first few by name."""
    arms: dict[str, str] = {}
    for row in rows:
        arms.setdefault(arm_name(row), named(row))
    names = list(arms.values())
    rest = len(names) - LISTED
    listed = ", ".join(names[:LISTED])
    return f"{listed} and {rest} more" if rest > 0 else listed
