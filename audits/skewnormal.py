"""The skew-normal distribution: tails far beyond what floats hold, maximum likelihood, a fit test.

`2 phi(z) Phi(a z) / scale` at `z = (x - location) / scale` (Azzalini 1985); the losses of random
strings under a language model follow it closely (Carlini et al. 2019, section 4.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr, logsumexp, ndtr, owens_t

__all__ = ["SkewNormal", "bootstrap", "cdf", "distance", "fit", "log_cdf", "sample"]

Array = NDArray[np.float64]

LOG_2PI: Final = math.log(2 * math.pi)
# Beyond this shape a density is a half-normal to float accuracy, and its likelihood flat.
LARGEST_SHAPE: Final = 1000.0
# Moments cannot give a larger skewness; near 0 the likelihood has a saddle, where no fit starts.
LARGEST_SKEWNESS, SMALLEST_SKEWNESS = 0.99, 0.02
# Points of log_cdf's grid in log t; with this spacing the trapezoidal rule errs by 1e-12 bits.
GRID: Final = np.arange(-40.0, 4.5, 0.08)


@dataclass(frozen=True)
class SkewNormal:
    """Shape a (0: normal; above 0: long right tail), location and scale."""

    shape: float
    location: float
    scale: float


def log_cdf(x: Array, law: SkewNormal) -> Array:
    """Natural log of P(X <= x), in the shape of `x`; finite however far out `x` lies.

    The density is integrated over t = z - z' in [0, inf) from its logarithm, on a grid in log t.
    Right of the location it is 1 minus the left tail of the mirrored law.
    """
    z = (x - law.location) / law.scale
    left = _log_left_tail(np.minimum(z, 0), law.shape)
    right = np.log1p(-np.exp(_log_left_tail(np.minimum(-z, 0), -law.shape)))
    return np.asarray(np.where(z <= 0, left, right))


def cdf(x: Array, law: SkewNormal) -> Array:
    """P(X <= x) by Owen's T function, to an absolute error of about 1e-16."""
    z = (x - law.location) / law.scale
    return np.asarray(np.clip(ndtr(z) - 2 * owens_t(z, law.shape), 0, 1))


def sample(law: SkewNormal, size: int, rng: np.random.Generator) -> Array:
    """Independent draws [size], as a sum of a normal and a half-normal (Azzalini 1986)."""
    along = law.shape / math.hypot(1, law.shape)
    half, normal = np.abs(rng.standard_normal(size)), rng.standard_normal(size)
    return law.location + law.scale * (along * half + math.sqrt(1 - along**2) * normal)


def fit(samples: Array, start: SkewNormal | None = None) -> SkewNormal:
    """Maximum likelihood from samples [n], by BFGS from `start` (default: matched moments).

    Raises:
        ValueError: The samples are all equal, or not all finite.
    """
    if not np.isfinite(samples).all() or np.ptp(samples) == 0:
        raise ValueError(
            f"{len(samples)} samples from {samples.min()} to {samples.max()}; a skew-normal fit "
            "needs finite samples that differ."
        )
    mean, std = float(samples.mean()), float(samples.std())
    y = (samples - mean) / std
    begin = np.zeros(3)
    begin[0] = _matched_shape(float((y**3).mean())) if start is None else start.shape
    # Not L-BFGS-B: its threaded BLAS calls on three numbers are slower than the likelihood.
    found = minimize(_loss_and_gradient, begin, args=(y,), jac=True, method="BFGS").x
    shape = max(-LARGEST_SHAPE, min(float(found[0]), LARGEST_SHAPE))
    centre, spread = float(found[1]), math.exp(found[2])
    standard_mean, standard_std, _ = _standard_moments(shape)
    scale = spread / standard_std
    return SkewNormal(shape, mean + std * (centre - scale * standard_mean), std * scale)


def distance(samples: Array, law: SkewNormal) -> float:
    """Kolmogorov and Smirnov's D = sup |F_n - F|."""
    n = len(samples)
    expected = cdf(np.sort(samples), law)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def bootstrap(
    samples: Array, law: SkewNormal, rng: np.random.Generator, count: int
) -> tuple[float, tuple[SkewNormal, ...]]:
    """P-value of "the samples are skew-normal", and the fits to `count` parametric resamples.

    `law` must be the fit to these very samples. The p-value is the share of resamples whose own fit
    is as distant from them as `law` is from the samples: after a fit the textbook p-value is far
    too large (Stute, Gonzalez Manteiga and Presedo Quindimil 1993).
    """
    observed = distance(samples, law)
    resamples = (sample(law, len(samples), rng) for _ in range(count))
    refits = [(drawn, fit(drawn, law)) for drawn in resamples]
    worse = sum(distance(drawn, refit) >= observed for drawn, refit in refits)
    return (1 + worse) / (1 + count), tuple(refit for _, refit in refits)


def _log_left_tail(z: Array, shape: float) -> Array:
    """Log of the standard law's CDF at z <= 0, in the shape of `z`."""
    step = float(GRID[1] - GRID[0])
    t = np.exp(GRID)
    flat = z.reshape(-1)
    result = np.empty_like(flat)
    for first in range(0, len(flat), 4096):  # bounds the table [4096, grid]
        point = flat[first : first + 4096, None] - t
        terms = math.log(2) - 0.5 * point**2 - 0.5 * LOG_2PI + log_ndtr(shape * point) + GRID
        result[first : first + 4096] = logsumexp(terms, axis=1) + math.log(step)
    return result.reshape(z.shape)


def _loss_and_gradient(theta: Array, y: Array) -> tuple[float, Array]:
    """Mean negative log-likelihood of y, and its gradient, at (shape, mean, log deviation).

    Mean and deviation, unlike location and scale, hardly depend on the shape: few steps are needed.
    """
    shape, centre, log_spread = (float(value) for value in theta)
    mean, std, mean_slope = _standard_moments(shape)
    std_slope = -mean * mean_slope / std
    x = (y - centre) * math.exp(-log_spread)
    z = mean + std * x
    log_tail = log_ndtr(shape * z)
    hazard = math.sqrt(2 / math.pi) / erfcx(-shape * z / math.sqrt(2))  # phi / Phi at shape z
    slope = shape * hazard - z  # d log density / d z
    density = math.log(2 * std) - 0.5 * LOG_2PI - log_spread + float((log_tail - z * z / 2).mean())
    along_shape = (slope * (mean_slope + std_slope * x) + z * hazard).mean() + std_slope / std
    along_centre = -slope.mean() * std * math.exp(-log_spread)
    return -density, np.array([-along_shape, -along_centre, (slope * x).mean() * std + 1])


def _standard_moments(shape: float) -> tuple[float, float, float]:
    """Mean and deviation of the law at location 0 and scale 1, and d mean / d shape."""
    mean = math.sqrt(2 / math.pi) * shape / math.hypot(1, shape)
    return mean, math.sqrt(1 - mean**2), math.sqrt(2 / math.pi) * (1 + shape**2) ** -1.5


def _matched_shape(skewness: float) -> float:
    """The shape with this skewness, as far as a skew-normal can have it."""
    g = min(max(abs(skewness), SMALLEST_SKEWNESS), LARGEST_SKEWNESS) ** (2 / 3)
    along = math.sqrt(math.pi / 2 * g / (g + ((4 - math.pi) / 2) ** (2 / 3)))
    return math.copysign(along / math.sqrt(1 - along**2), skewness)
