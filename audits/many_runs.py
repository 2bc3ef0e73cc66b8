"""Lower bounds on epsilon from error rates over independent runs, or independent trials in one.

In each an attack decides whether the canary was in the training data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from audits.gaussian_dp import epsilon_of
from audits.intervals import (
    Bound,
    Scores,
    check_alpha,
    check_count,
    check_delta,
    check_hits,
    check_scores,
    lower,
    make_bound,
    massart,
    upper,
)

__all__ = [
    "THRESHOLD",
    "TRIALS",
    "Rates",
    "clopper_pearson",
    "dkw",
    "fixed_threshold",
    "gaussian",
    "gaussian_dkw",
    "hits_many_runs",
    "known_null",
    "many_runs_counts",
    "mu_lower",
]

TRIALS: Final = "the runs (or canaries, given the rest) are independent"
THRESHOLD: Final = "the attack and its threshold were fixed before training"
ALL_THRESHOLDS: Final = "the attack was fixed before training; all its thresholds are covered"
SHAPE: Final = "the mechanism is mu-GDP for some mu: its trade-off curve is Gaussian in shape"
NULL: Final = "the rate of false positives at this threshold is known and not measured"
UNIFORM: Final = "secrets were drawn uniformly from their space, one a run"
DECLARED: Final = "the exposure that counts as a hit was fixed before training"

# Upper limits of the (false positive, false negative) rates: scalars, or one per threshold.
Rates = tuple[NDArray[np.float64], NDArray[np.float64]]


def clopper_pearson(
    *, tp: int, fp: int, n_in: int, n_out: int, delta: float, alpha: float = 0.05
) -> Bound:
    """Bound for (epsilon, delta)-DP from the error rates over many runs.

    `ln((1 - FNR - delta) / FPR)` or the same with the rates exchanged, at the Clopper-Pearson
    limits of both, alpha / 2 each (Jagielski, Ullman and Oprea 2020).

    Args:
        tp: Runs with the canary in which the attack says "in".
        fp: Runs without it in which the attack says "in".
        n_in: Runs with the canary.
        n_out: Runs without it.
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: Not 0 <= tp <= n_in or 0 <= fp <= n_out, no runs, or delta or alpha outside its
            range.
    """
    counts = many_runs_counts(tp, fp, n_in, n_out, delta, alpha)
    seen = fixed_threshold(tp, fp, n_in, n_out, alpha)
    best = fixed_threshold(n_in, 0, n_in, n_out, alpha)
    return _from_rates(seen, best, delta, alpha, "clopper-pearson", counts, (TRIALS, THRESHOLD))


def gaussian(
    *, tp: int, fp: int, n_in: int, n_out: int, delta: float, alpha: float = 0.05
) -> Bound:
    """Bound on mu, and the epsilon it means at delta, from the error rates over many runs.

    `Phi^-1(1 - FPR) - Phi^-1(FNR)` at the Clopper-Pearson limits (Nasr et al. 2023).
    Arguments and errors as in `clopper_pearson`.
    """
    counts = many_runs_counts(tp, fp, n_in, n_out, delta, alpha)
    seen = fixed_threshold(tp, fp, n_in, n_out, alpha)
    best = fixed_threshold(n_in, 0, n_in, n_out, alpha)
    return _from_rates(seen, best, delta, alpha, "gaussian", counts, (TRIALS, THRESHOLD, SHAPE))


def known_null(*, tp: int, n_in: int, fpr: float, delta: float, alpha: float = 0.05) -> Bound:
    """As `clopper_pearson`, where the rate of false positives is known: all of alpha is for misses.

    For random directions it is `audits.gaussian_scores.cosine_false_alarms` of the threshold.

    Args:
        tp: Trials with the canary in which the attack says "in".
        n_in: Trials with the canary.
        fpr: The probability that it says so without the canary, in (0, 1].
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: Not 0 <= tp <= n_in, no trials, or another argument outside its range.
    """
    counts = many_runs_counts(tp, 0, n_in, 1, delta, alpha)
    if not 0 < fpr <= 1:
        raise ValueError(f"fpr is {fpr}; expected a probability in (0, 1].")
    known = np.asarray(fpr)
    seen, best = ((known, upper(n_in - hits, n_in, alpha)) for hits in (tp, n_in))
    kept = {name: counts[name] for name in ("tp", "n_in")}
    return _from_rates(seen, best, delta, alpha, "known null", kept, (TRIALS, THRESHOLD, NULL))


def dkw(*, scores_in: Scores, scores_out: Scores, delta: float, alpha: float = 0.05) -> Bound:
    """As `clopper_pearson`, for the best threshold of all: the choice is paid for.

    Args:
        scores_in: Scores [n_in] of runs with the canary, higher = more member-like.
        scores_out: Scores [n_out] of runs without it.
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: No scores or NaN among them, or delta or alpha outside its range.
    """
    seen, best, counts = _all_thresholds(scores_in, scores_out, delta, alpha)
    return _from_rates(seen, best, delta, alpha, "dkw", counts, (TRIALS, ALL_THRESHOLDS))


def gaussian_dkw(
    *, scores_in: Scores, scores_out: Scores, delta: float, alpha: float = 0.05
) -> Bound:
    """As `gaussian`, for the best threshold of all. Arguments and errors as in `dkw`."""
    seen, best, counts = _all_thresholds(scores_in, scores_out, delta, alpha)
    told = (TRIALS, ALL_THRESHOLDS, SHAPE)
    return _from_rates(seen, best, delta, alpha, "gaussian dkw", counts, told)


def hits_many_runs(
    *, hits: int, canaries: int, bits: float, delta: float, alpha: float = 0.05
) -> Bound:
    """Bound for (epsilon, delta)-DP under add or remove, from one secret in each of many runs.

    P(exposure >= bits) is at most `e^eps 2^-bits + delta`, since a run that never saw the secret
    reaches it with probability 2^-bits.

    Args:
        hits: Secrets with an exposure of at least `bits`.
        canaries: All secrets, one a run.
        bits: The exposure declared before training, above 0.
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: Not 0 <= hits <= canaries, or another argument outside its range.
    """
    counts = check_hits(hits, canaries, bits, alpha)
    check_delta(delta)
    epsilon, ceiling = (_hits_epsilon(k, canaries, bits, delta, alpha) for k in (hits, canaries))
    told = (TRIALS, UNIFORM, DECLARED)
    return make_bound(epsilon, None, delta, alpha, "exposure, many runs", counts, ceiling, told)


def fixed_threshold(tp: int, fp: int, n_in: int, n_out: int, alpha: float) -> Rates:
    """Clopper-Pearson upper limits of both error rates, each at alpha / 2."""
    return upper(fp, n_out, alpha / 2), upper(n_in - tp, n_in, alpha / 2)


def _thresholds(inside: NDArray[np.float64], outside: NDArray[np.float64], alpha: float) -> Rates:
    """Upper limits of both error rates that hold at every threshold at once, alpha / 2 each.

    "In" is decided for scores >= t, t over all observed scores. Massart's one-sided inequality.
    """
    t = np.unique(np.concatenate([inside, outside]))
    below = np.searchsorted(np.sort(inside), t) / len(inside)
    above = 1 - np.searchsorted(np.sort(outside), t) / len(outside)
    return (
        np.minimum(1.0, above + massart(len(outside), alpha / 2)),
        np.minimum(1.0, below + massart(len(inside), alpha / 2)),
    )


def _epsilon_lower(rates: Rates, delta: float) -> float:
    """The largest `ln((1 - FNR - delta) / FPR)`, either way round; at least 0.

    (epsilon, delta)-DP bounds both ratios by e^eps (Kairouz et al. 2015, theorem 2.1), and both
    upper limits hold on the same event, so that the better direction costs nothing.
    """
    fpr, fnr = rates
    # Differences of logarithms, since a rate may be so small that the ratio overflows.
    with np.errstate(divide="ignore"):  # log(0): delta alone explains the rates
        logs = [
            np.log(np.maximum(1 - missed - delta, 0.0)) - np.log(alarms)
            for alarms, missed in ((fpr, fnr), (fnr, fpr))
        ]
    return max(0.0, float(np.max(logs)))


def mu_lower(rates: Rates) -> float:
    """The largest `Phi^-1(1 - FPR) - Phi^-1(FNR)`; at least 0 (Nasr et al. 2023)."""
    fpr, fnr = rates
    return max(0.0, float(np.max(ndtri(1 - fpr) - ndtri(fnr))))


def _hits_epsilon(hits: int, runs: int, bits: float, delta: float, alpha: float) -> float:
    """Epsilon, under adding or removing the secret, from one secret in each of many runs.

    A hit is a secret among the top share p0 = 2^-bits of its space. A run without the secret would
    hit with probability p0 exactly, so P(hit) <= e^eps p0 + delta.
    """
    excess = float(lower(hits, runs, alpha)) - delta
    return max(0.0, math.log(excess) + bits * math.log(2)) if excess > 0 else 0.0


def _from_rates(
    seen: Rates,
    best: Rates,
    delta: float,
    alpha: float,
    method: str,
    counts: Mapping[str, int],
    assumptions: tuple[str, ...],
) -> Bound:
    """The Bound from the limits seen; by way of mu where a Gaussian shape is assumed."""
    if SHAPE not in assumptions:
        epsilon, ceiling = (_epsilon_lower(rates, delta) for rates in (seen, best))
        return make_bound(epsilon, None, delta, alpha, method, counts, ceiling, assumptions)
    mu, ceiling_mu = mu_lower(seen), mu_lower(best)
    epsilon, ceiling = epsilon_of(mu, delta), epsilon_of(ceiling_mu, delta)
    return make_bound(epsilon, mu, delta, alpha, method, counts, ceiling, assumptions)


def _all_thresholds(
    scores_in: Scores, scores_out: Scores, delta: float, alpha: float
) -> tuple[Rates, Rates, dict[str, int]]:
    """Limits seen, limits of scores that separate perfectly, and the counts."""
    check_delta(delta)
    check_alpha(alpha)
    inside = check_scores("scores_in", scores_in).reshape(-1)
    outside = check_scores("scores_out", scores_out).reshape(-1)
    seen = _thresholds(inside, outside, alpha)
    best = _thresholds(np.ones(len(inside)), np.zeros(len(outside)), alpha)
    return seen, best, {"n_in": len(inside), "n_out": len(outside)}


def many_runs_counts(
    tp: int, fp: int, n_in: int, n_out: int, delta: float, alpha: float
) -> dict[str, int]:
    """The counts of an audit over many runs, checked; errors as in `clopper_pearson`."""
    check_delta(delta)
    check_alpha(alpha)
    runs = {"n_in": check_count("n_in", n_in, 1), "n_out": check_count("n_out", n_out, 1)}
    return {
        "tp": check_count("tp", tp, 0, runs["n_in"]),
        "fp": check_count("fp", fp, 0, runs["n_out"]),
        **runs,
    }
