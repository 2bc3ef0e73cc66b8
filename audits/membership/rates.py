"""The true-positive rate at a small false-positive rate, and how much of it is resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audits.intervals import Scores, check_alpha, check_count, lower, upper
from audits.membership.area import BEFORE, INDEPENDENT
from audits.membership.sides import Flags, Sides, sides

Seed: TypeAlias = np.random.Generator | int | None

RESAMPLES: Final = 1000
ROUNDING: Final = 1e-9  # .29 * 100 is 28.999999999999996


@dataclass(frozen=True)
class TprAtFpr:
    """A true-positive rate at a threshold that lets through a small share of non-members.

    Attributes:
        estimate: Share of members with a score above `threshold`.
        low: Clopper and Pearson's lower limit of the true rate at this threshold.
        high: Their upper limit.
        threshold: Records with a greater score are called members.
        fpr: The false-positive rate that was asked for.
        fpr_realized: Share of non-members above the threshold.
        fpr_low: Lower limit of the true rate.
        fpr_high: Upper limit.
        fpr_bound: One-sided upper limit: what may be claimed of the false-positive rate.
        boot_low: For display: percentile of a bootstrap of both sides, each with its own threshold.
        boot_high: For display, likewise.
        alpha: Failure probability of each interval, for all `n_tests` attacks together.
        n_tests: Attacks that were tried.
        method: How the threshold was set.
        assumptions: What must hold.
        counts: Members `n_in`, non-members `n_out`, true positives `tp`, false positives `fp`.
        valid: Whether the rate asked for is resolved by the non-members there are.
        reasons: What to know.
    """

    estimate: float
    low: float
    high: float
    threshold: float
    fpr: float
    fpr_realized: float
    fpr_low: float
    fpr_high: float
    fpr_bound: float
    boot_low: float
    boot_high: float
    alpha: float
    n_tests: int
    method: str
    assumptions: tuple[str, ...]
    counts: Mapping[str, int]
    valid: bool = True
    reasons: tuple[str, ...] = ()


def tpr_at_fpr(
    scores: Scores,
    inside: Flags,
    fpr: float,
    alpha: float = 0.05,
    n_tests: int = 1,
    certified: bool = False,
    rng: Seed = None,
) -> TprAtFpr:
    """The true-positive rate at the lowest threshold that k = fpr * n_out non-members pass.

    The threshold is the (k+1)-th largest non-member score, so the true false-positive rate follows
    Beta(k + 1, n_out - k) at most and its limits hold although the threshold was set on the same
    scores (Wilks 1941). Members had no part in it: their limits are those of a fixed threshold.

    Args:
        scores: [n], higher = more member-like.
        inside: [n] booleans.
        fpr: In (0, 1), as .01.
        alpha: Failure probability of each interval.
        n_tests: How many attacks were tried on these records; alpha is shared among them.
        certified: Let so few non-members pass that `fpr_bound` is at most `fpr`, where the
            default lets the share among these non-members be `fpr`.
        rng: Generator or seed of the bootstrap; None is seed 0.

    Raises:
        ValueError: Fewer than 1/fpr non-members (or too few to certify); NaN, shapes that differ,
            no members; or fpr, alpha or `n_tests` outside its range.
    """
    check_alpha(alpha)
    tests = check_count("n_tests", n_tests, 1)
    both, share = sides(scores, inside), alpha / tests
    n_in, n_out = len(both.members), len(both.others)
    check_resolution(n_out, fpr, share)
    k = _allowed(n_out, fpr, share, certified)
    threshold = float(both.others[n_out - 1 - k])
    tp, fp = (int(_above(side, threshold)) for side in (both.members, both.others))
    boot = _bootstrap(both, k, np.random.default_rng(0 if rng is None else rng))
    boot_low, boot_high = np.quantile(boot, [share / 2, 1 - share / 2])
    return TprAtFpr(
        estimate=tp / n_in,
        low=float(lower(tp, n_in, share / 2)),
        high=float(upper(tp, n_in, share / 2)),
        threshold=threshold,
        fpr=fpr,
        fpr_realized=fp / n_out,
        fpr_low=float(lower(fp, n_out, share / 2)),
        # Of k and not of fp, which is smaller where scores are tied at the threshold.
        fpr_high=float(upper(k, n_out, share / 2)),
        fpr_bound=float(upper(k, n_out, share)),
        boot_low=float(boot_low),
        boot_high=float(boot_high),
        alpha=alpha,
        n_tests=tests,
        method="certified" if certified else "empirical",
        assumptions=(INDEPENDENT, BEFORE if tests == 1 else f"no more than {tests} attacks tried"),
        counts={"n_in": n_in, "n_out": n_out, "tp": tp, "fp": fp},
        reasons=_reasons(k - fp, n_out, fpr, share, certified),
    )


def non_members_needed(fpr: float, alpha: float = 0.05) -> int:
    """The fewest non-members of which none above the threshold shows a rate of at most `fpr`.

    `n >= ln(alpha) / ln(1 - fpr)`: Clopper and Pearson's limit at no false positive.

    Raises:
        ValueError: fpr or alpha is outside (0, 1).
    """
    check_alpha(alpha)
    if not 0 < fpr < 1:
        raise ValueError(f"fpr is {fpr}; expected a false-positive rate in (0, 1), as .01.")
    return math.ceil(math.log(alpha) / math.log1p(-fpr))


def check_resolution(n_out: int, fpr: float, alpha: float = 0.05) -> None:
    """Raise ValueError if n_out non-members are fewer than 1/fpr: one of them is more than fpr."""
    needed = non_members_needed(fpr, alpha)
    if n_out * fpr < 1 - ROUNDING:
        raise ValueError(
            f"{n_out} non-members cannot show a false-positive rate of {fpr:g}; expected at least "
            f"{math.ceil(1 / fpr - ROUNDING)} for a headline, and {needed} with none above the "
            f"threshold to claim at most {fpr:g} with confidence {1 - alpha:g}. Use a larger rate "
            "or more non-members."
        )


def _allowed(n_out: int, fpr: float, alpha: float, certified: bool) -> int:
    """How many non-members may pass the threshold."""
    most = math.floor(fpr * n_out + ROUNDING)
    if not certified:
        return most
    fine = np.flatnonzero(upper(np.arange(most + 1), n_out, alpha) <= fpr)
    if not len(fine):
        raise ValueError(
            f"{n_out} non-members cannot certify a false-positive rate of {fpr:g} with confidence "
            f"{1 - alpha:g}; expected at least {non_members_needed(fpr, alpha)}."
        )
    return int(fine[-1])


def _reasons(tied: int, n_out: int, fpr: float, alpha: float, certified: bool) -> tuple[str, ...]:
    found = []
    if tied:
        found.append(f"{tied} more non-members would pass but for ties at the threshold")
    if not certified and n_out < (needed := non_members_needed(fpr, alpha)):
        found.append(
            f"{n_out} non-members cannot certify a false-positive rate of {fpr:g}: that takes "
            f"{needed}; `fpr_bound` is what may be claimed"
        )
    return tuple(found)


def _above(
    ordered: NDArray[np.float64], threshold: float | NDArray[np.float64]
) -> NDArray[np.int64]:
    return np.asarray(len(ordered) - np.searchsorted(ordered, threshold, side="right"))


def _bootstrap(both: Sides, k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The rate in resamples of members and of non-members, each with its own threshold."""
    n_in, n_out = len(both.members), len(both.others)
    # Resampled ranks are floor(n U); the (k+1)-th largest of n uniform U is Beta(n - k, k + 1).
    ranks = np.floor(n_out * rng.beta(n_out - k, k + 1, RESAMPLES)).astype(np.int64)
    thresholds = both.others[np.minimum(ranks, n_out - 1)]
    return rng.binomial(n_in, _above(both.members, thresholds) / n_in) / n_in
