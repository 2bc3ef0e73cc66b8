"""Lower bounds on epsilon for subsampled training, and whether counts contradict its claim.

The null hypothesis is a whole claim (q, sigma, T) and not its epsilon: T steps of Gaussian noise,
each record drawn with probability q in each (Poisson sampling), under add or remove. Its trade-off
function comes from accounting, as the lower of both directions: adding a record and removing it.
Where sigma is not given, it is what a bound is sought for; the mechanism has more privacy the
larger it is, so that an upper limit for sigma gives a lower bound on epsilon.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from scipy.stats import binom

from audits.intervals import Bound, make_bound
from audits.many_runs import THRESHOLD, TRIALS, fixed_threshold, many_runs_counts, mu_lower
from audits.one_run import COINS, DECLARED, gaussian_mu, one_run_counts, rejects
from audits.trade_off import (
    Curve,
    check_claim,
    epsilon_of_claim,
    ever_drawn,
    trade_off,
    vanishing_noise,
)

__all__ = ["rejects_claim", "rejects_claim_one_run", "subsampled", "subsampled_one_run"]

Rejected = Callable[[Curve], bool]

# Noise multipliers are sought among 2^(i / 400): all audits of a design share their curves.
PER_DOUBLING: Final = 400
SMALLEST: Final = -7 * PER_DOUBLING
FIRST_STEP: Final = 32
# A mu below this is not told from 0; its epsilon at a delta of 1e-5 is below .0003.
SMALLEST_MU: Final = 1e-4


def subsampled_one_run(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    rate: float,
    steps: int,
    delta: float,
    alpha: float = 0.05,
) -> Bound:
    """Bound on epsilon of subsampled training, from one run with many randomized canaries.

    Mahloujifar, Melis and Chaudhuri 2024 (arXiv 2410.22235), algorithm 3, for the trade-off
    functions of (q, sigma, T); sigma by bisection. With q = 1 the same as `gaussian_one_run`.

    Args:
        canaries: m, all randomized canaries, also those not guessed.
        guesses: r, the guesses made.
        correct: v, the right ones.
        rate: q, the probability of a record to take part in a step, in (0, 1].
        steps: T.
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: Not 0 <= v <= r <= m with m >= 1, or another argument outside its range.
    """
    counts = one_run_counts(canaries, guesses, correct, delta, alpha)
    check_claim(rate, steps, 1.0)
    m, r, v = counts.values()
    seen, best = (
        _sigma_one_run(m, r, it, rate, steps, alpha)
        for it in (v, _right_at_most(r, rate, steps, alpha))
    )
    told = (COINS, DECLARED)
    return _bound(seen, best, rate, steps, delta, alpha, "subsampled one-run", counts, told)


def subsampled(
    *,
    tp: int,
    fp: int,
    n_in: int,
    n_out: int,
    rate: float,
    steps: int,
    delta: float,
    alpha: float = 0.05,
) -> Bound:
    """Bound on epsilon of subsampled training, from the error rates over many trials.

    The largest sigma for which the Clopper-Pearson limits of both rates, alpha / 2 each, are on
    the trade-off function of (q, sigma, T) or above. With q = 1 the same as `gaussian`.

    Args:
        tp: Trials with the canary in which the attack says "in".
        fp: Trials without it in which the attack says "in".
        n_in: Trials with the canary.
        n_out: Trials without it.
        rate: q, the probability of a record to take part in a step, in (0, 1].
        steps: T.
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: Not 0 <= tp <= n_in or 0 <= fp <= n_out, no trials, or another argument outside
            its range.
    """
    counts = many_runs_counts(tp, fp, n_in, n_out, delta, alpha)
    check_claim(rate, steps, 1.0)
    seen, best = (
        _sigma_many_runs(*it, n_in, n_out, rate, steps, alpha)
        for it in ((tp, fp), (_seen_at_most(n_in, rate, steps, alpha), 0))
    )
    told = (TRIALS, THRESHOLD)
    return _bound(seen, best, rate, steps, delta, alpha, "subsampled", counts, told)


def rejects_claim_one_run(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    rate: float,
    steps: int,
    noise_multiplier: float,
    alpha: float = 0.05,
) -> bool:
    """Whether the counts of one run contradict a claim (q, sigma, T), with one curve.

    A claim that is met is rejected with probability <= alpha. Arguments and errors as in
    `subsampled_one_run`; `noise_multiplier` is the claimed sigma, above 0.
    """
    m, r, v = one_run_counts(canaries, guesses, correct, 0.0, alpha).values()
    return _one_run(m, r, v, alpha)(trade_off(rate, steps, noise_multiplier))


def rejects_claim(
    *,
    tp: int,
    fp: int,
    n_in: int,
    n_out: int,
    rate: float,
    steps: int,
    noise_multiplier: float,
    alpha: float = 0.05,
) -> bool:
    """Whether the error rates over many trials contradict a claim (q, sigma, T), with one curve.

    A claim that is met is rejected with probability <= alpha. Arguments and errors as in
    `subsampled`; `noise_multiplier` is the claimed sigma, above 0.
    """
    many_runs_counts(tp, fp, n_in, n_out, 0.0, alpha)
    return _many_runs(tp, fp, n_in, n_out, alpha)(trade_off(rate, steps, noise_multiplier))


def _one_run(canaries: int, guesses: int, correct: int, alpha: float) -> Rejected:
    return lambda curve: rejects(lambda x: curve(1 - x), canaries, guesses, correct, alpha)


def _many_runs(tp: int, fp: int, n_in: int, n_out: int, alpha: float) -> Rejected:
    fpr, fnr = (float(limit) for limit in fixed_threshold(tp, fp, n_in, n_out, alpha))
    return lambda curve: fnr < curve(fpr)


def _seen_at_most(n_in: int, rate: float, steps: int, alpha: float) -> int:
    """How many of n canaries ever take part, exceeded with probability <= alpha.

    Not even an attack that sees every record in a step finds one that never was in any.
    """
    return int(binom.ppf(1 - alpha, n_in, ever_drawn(rate, steps)))


def _right_at_most(guesses: int, rate: float, steps: int, alpha: float) -> int:
    """How many of r guesses, half of them "in", such an attack has right, exceeded likewise.

    Its guesses "in" are all right. Among canaries that were never seen, the share
    1 / (1 + (1 - q)^T) is out.
    """
    out = guesses // 2
    share = 1 / (2 - ever_drawn(rate, steps))
    return guesses - out + int(binom.ppf(1 - alpha, out, share))


@lru_cache(maxsize=4096)
def _sigma_one_run(
    canaries: int, guesses: int, correct: int, rate: float, steps: int, alpha: float
) -> float:
    mu = gaussian_mu(canaries, guesses, correct, alpha)
    return _smallest_rejected(_one_run(canaries, guesses, correct, alpha), mu, rate, steps)


@lru_cache(maxsize=4096)
def _sigma_many_runs(
    tp: int, fp: int, n_in: int, n_out: int, rate: float, steps: int, alpha: float
) -> float:
    mu = mu_lower(fixed_threshold(tp, fp, n_in, n_out, alpha))
    return _smallest_rejected(_many_runs(tp, fp, n_in, n_out, alpha), mu, rate, steps)


def _smallest_rejected(rejected: Rejected, mu: float, rate: float, steps: int) -> float:
    """The smallest sigma rejected: 0 if all are, infinity if none is.

    Args:
        rejected: Whether the counts reject a trade-off curve.
        mu: The bound of the same counts for Gaussian curves, near which the search begins.
        rate: q.
        steps: T.
    """
    if mu < SMALLEST_MU:
        return math.inf
    if rejected(vanishing_noise(rate, steps)):
        return 0.0
    largest = _index(SMALLEST_MU, rate, steps)
    start = min(max(_index(mu, rate, steps), SMALLEST), largest)
    found = _edge(lambda i: rejected(trade_off(rate, steps, _sigma(i))), start, largest)
    return math.inf if found is None else _sigma(found)


def _sigma(index: int) -> float:
    return math.exp2(index / PER_DOUBLING)


def _index(mu: float, rate: float, steps: int) -> int:
    """The place of the noise multiplier that the central limit theorem gives for mu.

    `mu = q sqrt(T (e^(1/sigma^2) - 1))`, and sqrt(T) / sigma without subsampling (Bu et al. 2020).
    """
    each = mu / math.sqrt(steps)
    sigma = 1 / each if rate == 1 else 1 / math.sqrt(math.log1p((each / rate) ** 2))
    return round(PER_DOUBLING * math.log2(sigma))


def _edge(rejected: Callable[[int], bool], start: int, largest: int) -> int | None:
    """The first number rejected of [SMALLEST, largest], of which larger ones are if one is."""
    low = high = start
    step = FIRST_STEP
    if rejected(start):
        while rejected(low := max(low - step, SMALLEST)):
            if low == SMALLEST:
                return low
            high, step = low, 2 * step
    else:
        while not rejected(high := min(high + step, largest)):
            if high == largest:
                return None
            low, step = high, 2 * step
    return bisect_left(range(low + 1, high), True, key=rejected) + low + 1


def _bound(
    sigma: float,
    best: float,
    rate: float,
    steps: int,
    delta: float,
    alpha: float,
    method: str,
    counts: Mapping[str, int],
    assumptions: tuple[str, ...],
) -> Bound:
    """The Bound of the smallest sigma rejected, and of the one a perfect attack would reject."""
    family = (
        f"each record is drawn with probability {rate:g} in each of {steps} steps of Gaussian "
        "noise, and one release of all of them is what the attack sees"
    )
    epsilon, ceiling = (_epsilon(it, rate, steps, delta) for it in (sigma, best))
    bound = make_bound(epsilon, None, delta, alpha, method, counts, ceiling, (*assumptions, family))
    reasons = bound.reasons
    if sigma == 0:
        reasons += (
            "no noise multiplier explains these counts: canaries took part more often than with "
            f"probability {rate:g} in {steps} steps",
        )
    return dataclasses.replace(bound, sigma=sigma, reasons=reasons)


def _epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
    if sigma == math.inf:
        return 0.0
    return math.inf if sigma == 0 else epsilon_of_claim(rate, steps, sigma, delta)
