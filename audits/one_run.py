"""Lower bounds on epsilon from one training run with many randomized canaries.

m canaries are each inserted with probability 1/2, independently; after training, r of them are
guessed in or out and v of the guesses are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtrc, gammaln, ndtr, ndtri

from audits.gaussian_dp import epsilon_of
from audits.intervals import (
    Bound,
    check_alpha,
    check_count,
    check_delta,
    check_hits,
    lower,
    make_bound,
)

__all__ = [
    "COINS",
    "DECLARED",
    "default_guesses",
    "expected_correct",
    "gaussian_mu",
    "gaussian_one_run",
    "hits_one_run",
    "one_run_counts",
    "rejects",
    "steinke",
]

COINS: Final = "every canary was inserted with probability 1/2, independently, and m counts all"
DECLARED: Final = "the attack and the number of guesses were fixed before training"
SHAPE: Final = "the mechanism is mu-GDP for some mu: its trade-off curve is Gaussian in shape"
REPLACED: Final = "neighbours differ by replacing one secret (halve epsilon for add or remove)"
UNIFORM: Final = "secrets were drawn uniformly from their space, and the ranking from the model"

# Grid on which the smallest crossing of the p-value is sought before it is refined.
SCAN_POINTS = 32


def steinke(
    *, canaries: int, guesses: int, correct: int, delta: float, alpha: float = 0.05
) -> Bound:
    """Bound for (epsilon, delta)-DP under add or remove, from one run.

    Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), section 5. The ceiling of a
    design is the bound for `correct=guesses`, to be looked at before training.

    Args:
        canaries: m, all randomized canaries, also those not guessed.
        guesses: r, the guesses made.
        correct: v, the right ones.
        delta: In [0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: Not 0 <= v <= r <= m with m >= 1, or delta or alpha outside its range.
    """
    counts = one_run_counts(canaries, guesses, correct, delta, alpha)
    m, r, v = counts.values()
    epsilon = _steinke_epsilon(m, r, v, delta, alpha)
    ceiling = epsilon if v == r else _steinke_epsilon(m, r, r, delta, alpha)
    return make_bound(epsilon, None, delta, alpha, "steinke", counts, ceiling, (COINS, DECLARED))


def gaussian_one_run(
    *, canaries: int, guesses: int, correct: int, delta: float, alpha: float = 0.05
) -> Bound:
    """Bound on mu, and the epsilon it means at delta, from one run.

    Mahloujifar, Melis and Chaudhuri 2024 (arXiv 2410.22235), algorithm 3, for Gaussian trade-off
    curves: tighter than `steinke` and less general. Arguments and errors as there.
    """
    counts = one_run_counts(canaries, guesses, correct, delta, alpha)
    m, r, v = counts.values()
    mu = gaussian_mu(m, r, v, alpha)
    ceiling = epsilon_of(gaussian_mu(m, r, r, alpha), delta)
    told = (COINS, DECLARED, SHAPE)
    return make_bound(
        epsilon_of(mu, delta), mu, delta, alpha, "gaussian one-run", counts, ceiling, told
    )


def hits_one_run(*, hits: int, canaries: int, bits: float, alpha: float = 0.05) -> Bound:
    """Bound for pure epsilon-DP under replacing a secret, from many secrets in one run.

    Halve it for add or remove: replacing is removing and adding. Arguments and errors as in
    `hits_many_runs`; `_hits_epsilon` derives the bound.
    """
    counts = check_hits(hits, canaries, bits, alpha)
    epsilon, ceiling = (_hits_epsilon(k, canaries, bits, alpha) for k in (hits, canaries))
    told = (UNIFORM, DECLARED, REPLACED)
    return make_bound(epsilon, None, 0.0, alpha, "exposure, one run", counts, ceiling, told)


def _steinke_p_value(
    canaries: int, guesses: int, correct: int, delta: float
) -> Callable[[float], float]:
    """The function epsilon -> p-value of "the run is (epsilon, delta)-DP under add or remove".

    With q = e^eps / (1 + e^eps) and W ~ Bin(r, q):
    `p = min(1, P[W >= v] + 2 m delta max_{i=1..v} P[v > W >= v - i] / i)`
    (Steinke, Nasr and Jagielski 2023, section 5). One call costs O(v).
    """
    r, v = guesses, correct
    right: NDArray[np.float64] = np.arange(v - 1, -1, -1, dtype=np.float64)  # W = v-1, ..., 0
    log_choose = gammaln(r + 1) - gammaln(right + 1) - gammaln(r - right + 1)

    def p_value(epsilon: float) -> float:
        log_q, log_1_q = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
        beta = float(bdtrc(v - 1, r, math.exp(log_q))) if v > 0 else 1.0
        if delta == 0 or v == 0:
            return min(1.0, beta)
        mass = np.exp(log_choose + right * log_q + (r - right) * log_1_q).cumsum()
        steepest = float((mass / np.arange(1, v + 1)).max())
        return min(1.0, beta + 2 * canaries * delta * steepest)

    return p_value


def _steinke_epsilon(
    canaries: int, guesses: int, correct: int, delta: float, alpha: float
) -> float:
    """The smallest epsilon >= 0 that v right guesses of r do not reject at level alpha.

    The smallest crossing is taken because the delta term need not be monotone in epsilon; the
    first epsilon not rejected is below the true one with probability 1 - alpha in any case.
    """
    p_value = _steinke_p_value(canaries, guesses, correct, delta)
    if p_value(0.0) > alpha:
        return 0.0
    high = 1.0
    while p_value(high) <= alpha:
        high *= 2
    low = 0.0
    for point in np.linspace(0, high, SCAN_POINTS + 1)[1:]:
        if p_value(float(point)) > alpha:
            high = float(point)
            break
        low = float(point)
    return float(brentq(lambda epsilon: p_value(epsilon) - alpha, low, high, xtol=1e-10))


def gaussian_mu(canaries: int, guesses: int, correct: int, alpha: float) -> float:
    """The largest mu for which v right guesses of r reject "the run is mu-GDP" at level alpha.

    Bisection over the recursion of Mahloujifar, Melis and Chaudhuri 2024 (algorithm 3, alphabet of
    two), to 1e-7.
    """

    def rejected(mu: float) -> bool:
        # Phi(Phi^-1(x) - mu) = f(1 - x) for the Gaussian trade-off function f.
        return rejects(lambda x: float(ndtr(ndtri(x) - mu)), canaries, guesses, correct, alpha)

    if not rejected(1e-9):
        return 0.0
    low, high = 0.0, 1.0
    while rejected(high):
        low, high = high, 2 * high
    while high - low > 1e-7:
        middle = (low + high) / 2
        if rejected(middle):
            low = middle
        else:
            high = middle
    return low


def rejects(
    shrunk: Callable[[float], float], canaries: int, guesses: int, correct: int, alpha: float
) -> bool:
    """Whether `correct` or more right guesses have probability < alpha under f-DP.

    Mahloujifar, Melis and Chaudhuri 2024, algorithm 3, for an alphabet of two.

    Args:
        shrunk: The inverse of the blow-up function, x -> f(1 - x): what an event of probability x
            has at least on the neighbouring data, for a convex and symmetric trade-off function f.
        canaries: m.
        guesses: r, at most m.
        correct: v, at most r.
        alpha: Failure probability.
    """
    r = alpha * correct / canaries
    h = alpha * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        reached = max(h, shrunk(min(r, 1.0)))
        if reached == h:
            break  # r then stays as well, and so does everything after it
        r += i / (guesses - i) * (reached - h)
        h = reached
        if r + h > guesses / canaries:
            break  # r + h never decreases
    return r + h > guesses / canaries


def _hits_epsilon(hits: int, canaries: int, bits: float, alpha: float) -> float:
    """Pure epsilon, under replacing a secret, from one run with many secrets.

    A hit is a secret among the top share p0 = 2^-bits of its space, in which it was drawn
    uniformly. Posterior odds are at most e^eps times prior odds whatever the other secrets are, so
    the hits are stochastically below Bin(n, q), q = e^eps p0 / (1 - p0 + e^eps p0); inverted with
    the exact lower limit for q. With p0 = 1/2 this is Steinke's bound at delta = 0.
    """
    share = float(lower(hits, canaries, alpha))
    prior = 2.0**-bits
    if share <= prior:
        return 0.0
    return math.log(share) - math.log1p(-share) + bits * math.log(2) + math.log1p(-prior)


def default_guesses(canaries: int) -> int:
    """The number of guesses to declare before training: m / 10 from 1,000 canaries on, else m / 3.

    Near the best choice for attacks of ordinary strength (mu from 1 to 2), for both bounds.
    """
    return max(1, canaries // (10 if canaries >= 1000 else 3))


def expected_correct(canaries: int, guesses: int, mu: float) -> float:
    """Right guesses to expect of r when scores are N(mu, 1) for canaries inside, N(0, 1) outside.

    Half of the guesses are the top scores ("in"), half the bottom ones ("out"). For planning: a
    design whose bound at this count is below the claim cannot speak against the claim.
    """
    if guesses == canaries:
        return canaries * float(ndtr(mu / 2))
    tail = guesses / canaries  # twice the share of all scores above the upper threshold

    def above(threshold: float) -> float:
        return float(ndtr(mu - threshold) + ndtr(-threshold))

    threshold = brentq(lambda t: above(t) - tail, -40.0, mu + 40.0)
    return guesses * float(ndtr(mu - threshold)) / tail


def one_run_counts(
    canaries: int, guesses: int, correct: int, delta: float, alpha: float
) -> dict[str, int]:
    """The counts of an audit in one run, checked; errors as in `steinke`."""
    check_delta(delta)
    check_alpha(alpha)
    m = check_count("canaries", canaries, 1)
    r = check_count("guesses", guesses, 0, m)
    return {"canaries": m, "guesses": r, "correct": check_count("correct", correct, 0, r)}
