"""The area under the ROC curve and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from audits.intervals import Scores, check_alpha, check_count
from audits.membership.sides import Flags, Sides, sides

FEWEST: Final = 10  # on each side, for a normal approximation
INDEPENDENT: Final = "records are independent of each other, given the model"
BEFORE: Final = "the attack was chosen before its scores were seen"


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve.

    Attributes:
        estimate: P(a member scores above a non-member), ties count half.
        low: Lower end of the interval.
        high: Upper end.
        se: DeLong's standard error; 0 where no resampling of these scores would show any spread.
        alpha: Failure probability of the interval, for all `n_tests` attacks together.
        n_tests: Attacks that were tried.
        method: How the interval was made.
        assumptions: What must hold.
        counts: Members `n_in` and non-members `n_out`.
        valid: Whether there are enough records for the interval.
        reasons: What to know; why it is not valid.
    """

    estimate: float
    low: float
    high: float
    se: float
    alpha: float
    n_tests: int
    method: str
    assumptions: tuple[str, ...]
    counts: Mapping[str, int]
    valid: bool = True
    reasons: tuple[str, ...] = ()


def auc(scores: Scores, inside: Flags, alpha: float = 0.05, n_tests: int = 1) -> Auc:
    """The AUC with DeLong's interval (DeLong, DeLong and Clarke-Pearson 1988), cut at 0 and 1.

    Where its standard error is 0 (members all above non-members, or scores all equal) the interval
    is Hoeffding's for a mean over min(n_in, n_out) pairs, which holds for every law (1963).

    Args:
        scores: [n], higher = more member-like; only their order matters.
        inside: [n] booleans.
        alpha: Failure probability.
        n_tests: How many attacks were tried on these records; alpha is shared among them.

    Raises:
        ValueError: NaN, shapes that differ, fewer than 2 members or non-members, or alpha or
            `n_tests` outside its range.
    """
    check_alpha(alpha)
    tests = check_count("n_tests", n_tests, 1)
    both = sides(scores, inside)
    fewest = min(both.counts.values())
    if fewest < 2:
        raise ValueError(f"There are {both.counts}; expected at least 2 of each for an interval.")
    area, se = delong(both)
    reasons: list[str] = []
    if se > 0:
        half, method = float(ndtri(1 - alpha / tests / 2)) * se, "DeLong"
        if fewest < FEWEST:
            reasons.append(f"a normal approximation to {fewest} records of one side is too rough")
    else:
        half, method = math.sqrt(math.log(2 * tests / alpha) / (2 * fewest)), "Hoeffding"
    return Auc(
        estimate=area,
        low=max(0.0, area - half),
        high=min(1.0, area + half),
        se=se,
        alpha=alpha,
        n_tests=tests,
        method=method,
        assumptions=(INDEPENDENT, BEFORE if tests == 1 else f"no more than {tests} attacks tried"),
        counts=both.counts,
        valid=not reasons,
        reasons=tuple(reasons),
    )


def delong(both: Sides) -> tuple[float, float]:
    """The AUC and DeLong's standard error, in O((n + m) log(n + m)).

    The variance of the two means of placements: of a member, the share of non-members below it; of
    a non-member, the share of members above it (Sun and Xu 2014 for the ranks).
    """
    of_members = _share_below(both.others, both.members)
    of_others = 1 - _share_below(both.members, both.others)
    variances = (float(v.var(ddof=1)) / len(v) for v in (of_members, of_others))
    return float(of_members.mean()), math.sqrt(sum(variances))


def null_sd(n_in: int, n_out: int) -> float:
    """The standard deviation of the AUC of an attack that knows nothing, without ties.

    `sqrt((n + m + 1) / (12 n m))`, exactly (Wilcoxon 1945, Mann and Whitney 1947).
    """
    n, m = check_count("n_in", n_in, 1), check_count("n_out", n_out, 1)
    return math.sqrt((n + m + 1) / (12 * n * m))


def hanley_mcneil(area: float, n_in: int, n_out: int) -> float:
    """The standard error to expect of an AUC, for planning before there are scores.

    Under exponential laws of the scores (Hanley and McNeil 1982).

    Raises:
        ValueError: `area` is outside [0, 1], or a count is below 1.
    """
    if not 0 <= area <= 1:
        raise ValueError(f"area is {area}; expected an AUC in [0, 1].")
    n, m = check_count("n_in", n_in, 1), check_count("n_out", n_out, 1)
    one, two, square = area / (2 - area), 2 * area**2 / (1 + area), area**2
    variance = area * (1 - area) + (n - 1) * (one - square) + (m - 1) * (two - square)
    return math.sqrt(variance / (n * m))


def _share_below(pool: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a sorted pool below each value, ties half."""
    twice = np.searchsorted(pool, values, "left") + np.searchsorted(pool, values, "right")
    return twice / (2 * len(pool))
