"""What a claim allows: trade-off curves of composed, Poisson-subsampled Gaussian noise.

The claim (q, sigma, T): in each of T steps every record takes part with probability q, and Gaussian
noise of sigma times the sensitivity is added. Its curve is not Gaussian in shape, so that bounds
on mu do not apply to it.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from numpy.typing import NDArray

from audits.gaussian_dp import epsilon_of
from audits.intervals import check_count, check_delta

__all__ = [
    "Curve",
    "check_claim",
    "curve",
    "epsilon_of_claim",
    "ever_drawn",
    "trade_off",
    "vanishing_noise",
]

# The privacy loss of one step is put on a grid of this share of its standard deviation, which
# raises epsilon by about a thousandth, ...
FINENESS: Final = 1 / 12
# ... unless a rare step can lose so much that the grid would have more points than this.
GRID_POINTS: Final = 40_000
LINES: Final = 1000
# Fourier transforms of distributions round by about 1e-16 a step; this is added to every delta.
ROUNDING: Final = 1e-10
STEP_ROUNDING: Final = 1e-14
# Claims with a larger epsilon allow everything that can be told from a count.
LARGEST_EPSILON: Final = 500.0
LEAST_DELTA: Final = 1e-12


@dataclass(frozen=True)
class Curve:
    """A trade-off function: rate of false alarms -> the least rate of misses of any test.

    The largest of the lines `1 - delta - e^eps x` and `e^-eps (1 - delta - x)` over pairs
    (eps, delta) for all of which the mechanism is (eps, delta)-DP (Dong, Roth and Su 2019,
    proposition 2.12): convex, symmetric, and nowhere above the mechanism's own function.

    Attributes:
        factors: [n] e^eps, in increasing order.
        deltas: [n] at most 1.
        steep: [n - 1] negated x at which one line of the first kind hands over to the one before.
        flat: [n - 1] the same for the second kind, from x = 1 on.
    """

    factors: array[float]
    deltas: array[float]
    steep: array[float]
    flat: array[float]

    def __call__(self, false_alarms: float) -> float:
        """The least rate of misses at a rate of false alarms in [0, 1]."""
        x = false_alarms
        near, far = bisect_left(self.steep, -x), bisect_left(self.flat, x - 1)
        return max(
            0.0,
            1 - self.deltas[near] - self.factors[near] * x,
            (1 - self.deltas[far] - x) / self.factors[far],
        )


def curve(epsilons: NDArray[np.float64], deltas: NDArray[np.float64]) -> Curve:
    """The trade-off function that follows from (epsilon, delta)-DP for all of the pairs.

    Args:
        epsilons: [n] in increasing order, from 0.
        deltas: [n] at most 1.
    """
    factors = np.exp(epsilons)
    gap = -np.diff(deltas) / np.expm1(np.diff(epsilons))
    # Any line is a lower bound anywhere: rounding here costs tightness and never validity.
    steep = -np.minimum.accumulate(gap / factors[:-1])
    flat = -np.minimum.accumulate(deltas[:-1] + gap)
    # Bisection is quick in plain arrays, and they are small.
    return Curve(*(array("d", it.tolist()) for it in (factors, deltas, steep, flat)))


@lru_cache(maxsize=2048)
def trade_off(rate: float, steps: int, noise_multiplier: float) -> Curve:
    """The trade-off curve of a claim, from its pessimistic privacy loss distribution.

    Symmetric: a lower bound both for adding and for removing a record.

    Args:
        rate: q, the probability of a record to take part in a step, in (0, 1].
        steps: T.
        noise_multiplier: sigma, in units of the sensitivity.

    Raises:
        ValueError: An argument is outside its range.
    """
    check_claim(rate, steps, noise_multiplier)
    losses = _composed(rate, steps, noise_multiplier, FINENESS)
    rounding = ROUNDING + STEP_ROUNDING * steps
    top = min(losses.get_epsilon_for_delta(rounding), LARGEST_EPSILON)
    epsilons = np.linspace(0, top, LINES)
    deltas = np.asarray(losses.get_delta_for_epsilon(epsilons)) + rounding
    return curve(epsilons, np.minimum(deltas, 1.0))


def vanishing_noise(rate: float, steps: int) -> Curve:
    """The limit of the curves as the noise goes to 0: the record is seen if it ever took part."""
    return curve(np.zeros(1), np.full(1, ever_drawn(rate, steps)))


def ever_drawn(rate: float, steps: int) -> float:
    """The probability that a record takes part in any of T steps, `1 - (1 - q)^T`."""
    return -math.expm1(steps * math.log1p(-rate)) if rate < 1 else 1.0


@lru_cache(maxsize=2048)
def epsilon_of_claim(rate: float, steps: int, noise_multiplier: float, delta: float) -> float:
    """Epsilon of a claim at delta under add or remove, low by less than a thousandth or so.

    The discretization errs upwards with the square of its grid, so that twice the value of a grid
    minus the value of one twice as coarse errs downwards.

    Args:
        rate: q, in (0, 1].
        steps: T.
        noise_multiplier: sigma, in units of the sensitivity.
        delta: In [1e-12, 1), or 0, for which infinity is returned. Without subsampling any in
            [0, 1), and epsilon is exact.

    Raises:
        ValueError: An argument is outside its range.
    """
    check_claim(rate, steps, noise_multiplier)
    check_delta(delta)
    if delta == 0:
        return math.inf
    if rate == 1:
        return epsilon_of(math.sqrt(steps) / noise_multiplier, delta)
    if delta < LEAST_DELTA:
        raise ValueError(
            f"delta is {delta}; distributions of the privacy loss are cut off at about 1e-13, so "
            f"epsilon can be told from {LEAST_DELTA} on."
        )
    with np.errstate(over="ignore"):  # an epsilon of infinity, which is met below
        fine, coarse = (
            float(_composed(rate, steps, noise_multiplier, it).get_epsilon_for_delta(delta))
            for it in (FINENESS / 2, FINENESS)
        )
    if not fine <= coarse < math.inf:
        # A grid too coarse for so little noise. More noise has a smaller epsilon: still below.
        return epsilon_of_claim(rate, steps, 2 * noise_multiplier, delta)
    return max(0.0, 2 * fine - coarse)


def check_claim(rate: float, steps: int, noise_multiplier: float) -> None:
    """Raise ValueError unless the three describe subsampled Gaussian noise."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; expected a sampling probability in (0, 1].")
    check_count("steps", steps, 1)
    if not 0 < noise_multiplier < math.inf:
        raise ValueError(f"sigma is {noise_multiplier}; expected a finite number above 0.")


def _composed(rate: float, steps: int, noise_multiplier: float, fineness: float) -> Any:
    """The privacy loss distribution of a claim by "connect the dots" (Doroshenko et al. 2022)."""
    shift = 1 / noise_multiplier
    # Standard deviation and range of one step's loss; the noise is cut at 10 deviations.
    spread = rate * math.sqrt(math.expm1(shift**2)) if shift < 5 else shift
    width = shift * (20 + shift)
    step = fineness * max(min(spread, shift), width / (FINENESS * GRID_POINTS))
    losses = from_gaussian_mechanism(
        noise_multiplier, sampling_prob=rate, value_discretization_interval=step
    )
    return losses.self_compose(steps)
