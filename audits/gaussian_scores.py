"""What Gaussian scores of strength mu mean, and estimates of mu from moments (no bounds).

Scores are N(mu, 1) for canaries inside and N(0, 1) for canaries outside, or those of a random unit
direction: the cosine to anything that does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, gammaln, ndtr, ndtri

from audits.intervals import Scores, check_alpha, check_count, check_scores

__all__ = [
    "Moments",
    "accuracy_of",
    "auc_of",
    "cosine_density",
    "cosine_false_alarms",
    "moments",
    "true_positives_of",
]

TRIALS: Final = "the canaries are independent, given the rest"
NORMAL: Final = "scores are Gaussian, with one variance inside and outside"
ESTIMATE: Final = "an estimate: its interval rests on Gaussian scores, and covers only roughly"


@dataclass(frozen=True)
class Moments:
    """An estimate of mu with a rough interval; nothing that may contradict a claim.

    Attributes:
        mu: The estimate, in standard deviations.
        error: Its standard error.
        low: The lower end, below the true mu in about 1 - alpha of audits.
        high: The upper end, at the same level.
        alpha: Failure probability of either end.
        method: The estimator's name.
        counts: The numbers of scores.
        assumptions: What must hold.
        valid: False: no bound.
        reasons: Why.
    """

    mu: float
    error: float
    low: float
    high: float
    alpha: float
    method: str
    counts: Mapping[str, int]
    assumptions: tuple[str, ...]
    valid: bool = False
    reasons: tuple[str, ...] = (ESTIMATE,)


def moments(scores_in: Scores, scores_out: Scores, alpha: float = 0.05) -> Moments:
    """The difference of the mean scores in pooled standard deviations.

    `se^2 = 1/n_in + 1/n_out + mu^2 / (2 (n_in + n_out - 2))` (Hedges 1981, for large numbers).

    Args:
        scores_in: Scores [n_in] of canaries inside, higher = more member-like.
        scores_out: Scores [n_out] of canaries outside.
        alpha: Failure probability of either end of the interval.

    Raises:
        ValueError: A score is NaN or infinite, or all are equal on either side, or fewer than 3.
    """
    check_alpha(alpha)
    inside, outside = _finite("scores_in", scores_in), _finite("scores_out", scores_out)
    counts = {"n_in": inside.size, "n_out": outside.size}
    degrees = inside.size + outside.size - 2
    squares = sum(float(((it - it.mean()) ** 2).sum()) for it in (inside, outside))
    if degrees < 1 or squares == 0:
        raise ValueError(
            f"{inside.size} and {outside.size} scores do not vary around their two means; expected "
            "at least three scores that do: a deviation cannot be estimated."
        )
    mu = float(inside.mean() - outside.mean()) / math.sqrt(squares / degrees)
    error = math.sqrt(1 / inside.size + 1 / outside.size + mu**2 / (2 * degrees))
    half = float(ndtri(1 - alpha)) * error
    told = (TRIALS, NORMAL)
    return Moments(mu, error, mu - half, mu + half, alpha, "moments", counts, told)


def auc_of(mu: float) -> float:
    """The area under the ROC curve of Gaussian scores of strength mu: Phi(mu / sqrt 2)."""
    return float(ndtr(mu / math.sqrt(2)))


def true_positives_of(mu: float, false_alarms: float) -> float:
    """The rate of true positives at a rate of false alarms in [0, 1]: Phi(mu + Phi^-1(rate))."""
    if not 0 <= false_alarms <= 1:
        raise ValueError(f"false_alarms is {false_alarms}; expected a rate in [0, 1].")
    return float(ndtr(mu + ndtri(false_alarms)))


def accuracy_of(mu: float) -> float:
    """The best accuracy against fair coins, that of the threshold mu / 2: Phi(mu / 2)."""
    return float(ndtr(mu / 2))


def cosine_density(cosine: ArrayLike, dimension: int) -> NDArray[np.float64]:
    """Density of the cosine of a random direction to any fixed one (Andrew et al. 2023, section 4).

    `Gamma(d/2) / (Gamma((d-1)/2) sqrt(pi)) (1 - t^2)^((d-3)/2)`: mean 0, variance 1/d exactly, and
    close to Gaussian for large d.

    Args:
        cosine: t in [-1, 1], any shape.
        dimension: d, at least 3.

    Returns:
        The densities, in the shape of `cosine`.

    Raises:
        ValueError: A cosine or the dimension is outside its range.
    """
    t, d = _cosine(cosine, dimension)
    scale = math.exp(gammaln(d / 2) - gammaln((d - 1) / 2)) / math.sqrt(math.pi)
    return np.asarray(scale * (1 - t**2) ** ((d - 3) / 2))


def cosine_false_alarms(cosine: ArrayLike, dimension: int) -> NDArray[np.float64]:
    """The probability of a cosine of at least t for a canary that was not there.

    Exact, from the Beta distribution of (1 - t) / 2. Arguments, shape and errors as in
    `cosine_density`.
    """
    t, d = _cosine(cosine, dimension)
    return np.asarray(betainc((d - 1) / 2, (d - 1) / 2, (1 - t) / 2))


def _cosine(cosine: ArrayLike, dimension: int) -> tuple[NDArray[np.float64], int]:
    t = np.asarray(cosine, dtype=np.float64)
    if not (np.abs(t) <= 1).all():
        raise ValueError(f"cosine is {cosine!r}; expected numbers in [-1, 1].")
    return t, check_count("dimension", dimension, 3)


def _finite(name: str, values: Scores) -> NDArray[np.float64]:
    scores = check_scores(name, values).reshape(-1)
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} has infinite scores; expected finite ones: they have no mean.")
    return scores
