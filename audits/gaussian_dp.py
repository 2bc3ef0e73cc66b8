"""Conversions between (epsilon, delta) and the mean shift mu of Gaussian differential privacy.

Everything is computed from logarithms of tail probabilities, so that a delta of 1e-300 and a mu of
100 are as good as the ordinary ones. Epsilons are in nats, mu in standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtri

from audits.intervals import check_delta

__all__ = ["delta_of", "epsilon_of", "epsilon_of_two_gaussians", "mu_of"]


def delta_of(epsilon: float, mu: float) -> float:
    """The smallest delta for which a mu-GDP mechanism is (epsilon, delta)-DP.

    `Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)`: Balle and Wang 2018, theorem 8; Dong, Roth
    and Su 2019, corollary 2.13.

    Args:
        epsilon: Any real number, in nats.
        mu: Mean shift in standard deviations, at least 0.

    Raises:
        ValueError: `mu` is negative or not finite, or `epsilon` is not finite.
    """
    _check_finite("epsilon", epsilon)
    _check_shift(mu)
    return math.exp(_log_delta(epsilon, mu)) if mu > 0 else max(0.0, -math.expm1(epsilon))


def epsilon_of(mu: float, delta: float) -> float:
    """The smallest epsilon >= 0 for which a mu-GDP mechanism is (epsilon, delta)-DP.

    Infinite for delta = 0 and mu > 0: no Gaussian mechanism is purely private.

    Args:
        mu: Mean shift in standard deviations, at least 0; infinity gives infinity.
        delta: In [0, 1).

    Raises:
        ValueError: `mu` is negative or NaN, or `delta` is outside [0, 1).
    """
    check_delta(delta)
    if mu == math.inf:
        return math.inf
    _check_shift(mu)
    if mu == 0:
        return 0.0
    return _smallest_epsilon(lambda epsilon: _log_delta(epsilon, mu), delta)


def mu_of(epsilon: float, delta: float) -> float:
    """The largest mu for which every mu-GDP mechanism is (epsilon, delta)-DP; 0 for delta = 0.

    Args:
        epsilon: At least 0, in nats; infinity gives infinity.
        delta: In [0, 1).

    Raises:
        ValueError: `epsilon` is negative or NaN, or `delta` is outside [0, 1).
    """
    check_delta(delta)
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}; expected a number of at least 0 (nats).")
    if delta == 0 or epsilon == math.inf:
        return 0.0 if delta == 0 else math.inf
    if epsilon == 0:
        return 2 * float(ndtri((1 + delta) / 2))
    target = math.log(delta)
    high = _double(lambda mu: _log_delta(epsilon, mu) > target)
    return float(brentq(lambda mu: _excess(_log_delta(epsilon, mu), target), 0.0, high, xtol=1e-14))


def epsilon_of_two_gaussians(
    mean_in: float, std_in: float, mean_out: float, std_out: float, delta: float
) -> float:
    """The smallest epsilon for which two Gaussians are (epsilon, delta)-close in both directions.

    The log likelihood ratio is a quadratic, so the best test rejects inside or outside an interval
    and delta is a difference of Gaussian tails, without approximation. Applied to measured means
    and standard deviations this is an estimate and not a bound (Andrew et al. 2023, section 3).

    Args:
        mean_in: Mean score with the canary.
        std_in: Its standard deviation, above 0.
        mean_out: Mean score without the canary.
        std_out: Its standard deviation, above 0.
        delta: In [0, 1).

    Raises:
        ValueError: A mean is not finite, a deviation is not above 0, or `delta` is outside [0, 1).
    """
    check_delta(delta)
    for name, value in (("mean_in", mean_in), ("mean_out", mean_out)):
        _check_finite(name, value)
    for name, value in (("std_in", std_in), ("std_out", std_out)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number above 0.")
    if (mean_in, std_in) == (mean_out, std_out):
        return 0.0
    gap, ratio = mean_in - mean_out, std_in / std_out
    return max(
        _smallest_epsilon(lambda e: _log_delta_pair(e, gap / std_out, ratio), delta),
        _smallest_epsilon(lambda e: _log_delta_pair(e, -gap / std_in, 1 / ratio), delta),
    )


def _smallest_epsilon(log_delta: Callable[[float], float], delta: float) -> float:
    """inf{epsilon >= 0: log_delta(epsilon) <= log(delta)} for a decreasing `log_delta`."""
    if delta == 0:
        return math.inf
    target = math.log(delta)
    if log_delta(0.0) <= target:
        return 0.0
    high = _double(lambda epsilon: log_delta(epsilon) <= target)
    root = brentq(lambda epsilon: _excess(log_delta(epsilon), target), 0.0, high, xtol=1e-13)
    return float(root)


def _double(reached: Callable[[float], bool]) -> float:
    """The first of 1, 2, 4, ... at which `reached` is true."""
    value = 1.0
    while not reached(value):
        value *= 2
    return value


def _excess(log_delta: float, target: float) -> float:
    """`log_delta - target`, finite: brentq cannot interpolate through minus infinity."""
    return max(log_delta, -1e300) - target


def _log_delta(epsilon: float, mu: float) -> float:
    """log(Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)) for finite mu > 0; -inf for mu = 0."""
    if mu == 0:
        return -math.inf
    return _log_difference(
        float(log_ndtr(mu / 2 - epsilon / mu)), epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    )


def _log_delta_pair(epsilon: float, mean: float, std: float) -> float:
    """Log of sup_S [P(S) - e^eps Q(S)] for P = N(mean, std^2) and Q = N(0, 1)."""
    # log p/q > eps  <=>  a y^2 + b y + c > 0
    a = (1 - std**-2) / 2
    b = mean * std**-2
    c = -0.5 * (mean / std) ** 2 - math.log(std) - epsilon
    if a == 0:
        return _log_delta(epsilon, abs(mean))
    discriminant = b * b - 4 * a * c
    if discriminant <= 0:  # the ratio is above e^eps everywhere (a > 0) or nowhere
        return _log_difference(0.0, epsilon) if a > 0 else -math.inf
    pivot = -(b + math.copysign(math.sqrt(discriminant), b)) / 2  # no cancellation for small a
    low, high = sorted((pivot / a, c / pivot))
    region = _log_outside if a > 0 else _log_inside
    return _log_difference(
        region((low - mean) / std, (high - mean) / std), epsilon + region(low, high)
    )


def _log_outside(low: float, high: float) -> float:
    """Log of P(Z < low or Z > high), Z standard normal."""
    left, right = float(log_ndtr(low)), float(log_ndtr(-high))
    top = max(left, right)
    return top + math.log1p(math.exp(min(left, right) - top))


def _log_inside(low: float, high: float) -> float:
    """Log of P(low < Z < high), Z standard normal, taken in the tail where both are small."""
    if low > 0:
        low, high = -high, -low
    return _log_difference(float(log_ndtr(high)), float(log_ndtr(low)))


def _log_difference(larger: float, smaller: float) -> float:
    """log(e^larger - e^smaller); -inf where rounding has made the two equal."""
    return larger + math.log(-math.expm1(smaller - larger)) if smaller < larger else -math.inf


def _check_shift(mu: float) -> None:
    if not 0 <= mu < math.inf:
        raise ValueError(f"mu is {mu}; expected a finite number of at least 0 (deviations).")


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number.")
