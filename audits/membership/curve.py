"""The ROC curve with pointwise bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audits.intervals import Scores, check_alpha, lower, upper
from audits.membership.sides import Flags, sides


@dataclass(frozen=True, eq=False)
class RocCurve:
    """A curve from (0, 0) to (1, 1), for plotting.

    Attributes:
        fpr: [p] shares of non-members above each threshold, ascending.
        tpr: [p] shares of members.
        low: [p] Clopper and Pearson's lower limits of the true-positive rate, threshold by
            threshold: together they cover less often than each.
        high: [p] their upper limits.
        alpha: Failure probability of each point's interval.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    alpha: float


def roc(scores: Scores, inside: Flags, alpha: float = 0.05) -> RocCurve:
    """The curve over all thresholds; tied scores are passed together.

    Args:
        scores: [n], higher = more member-like.
        inside: [n] booleans.
        alpha: Failure probability of each point's interval.

    Raises:
        ValueError: NaN, shapes that differ, no members or no non-members, alpha outside (0, 1).
    """
    check_alpha(alpha)
    both = sides(scores, inside)
    thresholds = np.unique(np.concatenate(both))[::-1]
    n_in, n_out = len(both.members), len(both.others)

    def passed(ordered: NDArray[np.float64]) -> NDArray[np.int64]:
        at_least = len(ordered) - np.searchsorted(ordered, thresholds, side="left")
        return np.concatenate([[0], at_least]).astype(np.int64)

    tp, fp = passed(both.members), passed(both.others)
    return RocCurve(
        fpr=fp / n_out,
        tpr=tp / n_in,
        low=lower(tp, n_in, alpha / 2),
        high=upper(tp, n_in, alpha / 2),
        alpha=alpha,
    )
