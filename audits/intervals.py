"""Confidence limits of a proportion, a distribution, a mean and epsilon; checks of arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri
from scipy.stats import bootstrap

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Bound",
    "Scores",
    "check_alpha",
    "check_count",
    "check_delta",
    "check_hits",
    "check_scores",
    "lower",
    "make_bound",
    "massart",
    "mean_interval",
    "upper",
    "wilson",
]

Counts: TypeAlias = int | NDArray[np.int64]
Scores: TypeAlias = "float | Sequence[float] | NDArray[Any] | Tensor"


def upper(successes: Counts, trials: int, alpha: float) -> NDArray[np.float64]:
    """Clopper and Pearson's upper limit U(k, n, alpha), exceeded with probability <= alpha.

    One-sided: the two-sided interval at level alpha takes alpha / 2 on each side. 1 for k = n
    (Clopper and Pearson 1934).

    Args:
        successes: k, any shape.
        trials: n, at least 1.
        alpha: Failure probability, in (0, 1).

    Returns:
        The limits, in the shape of `successes`.

    Raises:
        ValueError: A count or alpha is outside its range.
    """
    k = _check(successes, trials, alpha)
    inner = betaincinv(k + 1, np.maximum(trials - k, 1), 1 - alpha)
    return np.asarray(np.where(k == trials, 1.0, inner))


def lower(successes: Counts, trials: int, alpha: float) -> NDArray[np.float64]:
    """Clopper and Pearson's lower limit, undercut with probability <= alpha; 0 for k = 0.

    Arguments, shape and errors as in `upper`.
    """
    k = _check(successes, trials, alpha)
    inner = betaincinv(np.maximum(k, 1), trials - k + 1, alpha)
    return np.asarray(np.where(k == 0, 0.0, inner))


def wilson(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Wilson's score interval for a proportion: approximate, for judging simulations (1927).

    Arguments and errors as in `upper`, with two sides of alpha / 2.
    """
    share = float(_check(successes, trials, alpha)) / trials
    z = float(ndtri(1 - alpha / 2))
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return (centre - half) / (1 + z * z / trials), (centre + half) / (1 + z * z / trials)


def massart(samples: int, alpha: float) -> float:
    """The e for which P(sup_t F(t) - F_n(t) > e) <= alpha, for n independent samples.

    One-sided Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (1990), which holds for
    alpha <= 1/2: `sqrt(ln(1/alpha) / (2n))`.

    Raises:
        ValueError: No samples, or alpha outside (0, 1/2].
    """
    n = check_count("samples", samples, 1)
    if not 0 < alpha <= 0.5:
        raise ValueError(f"alpha is {alpha}; Massart's one-sided inequality holds in (0, 1/2].")
    return math.sqrt(-math.log(alpha) / (2 * n))


def mean_interval(
    values: NDArray[np.float64], alpha: float, rng: np.random.Generator
) -> tuple[float, float]:
    """BCa bootstrap interval of the mean (Efron 1987), for values [n] that are not all equal.

    Percentile limits where BCa is undefined, as when all resamples lie on one side of the mean.
    """
    check_alpha(alpha)
    kept = None
    for method in ("BCa", "percentile"):
        kept = bootstrap(
            (values,),
            np.mean,
            confidence_level=1 - alpha,
            method=method,
            batch=max(1, 10**6 // len(values)),  # bounds the table of resamples
            rng=rng,
            bootstrap_result=kept,
            n_resamples=0 if kept else 9999,
        )
        low, high = kept.confidence_interval
        if np.isfinite(low) and np.isfinite(high):
            break
    return float(low), float(high)


@dataclass(frozen=True)
class Bound:
    """A lower confidence bound on epsilon.

    Attributes:
        epsilon: The bound, in nats; exceeded by the true epsilon with probability 1 - alpha.
        mu: The bound on mu from which `epsilon` follows; None for methods that use no mu.
        delta: The delta at which epsilon is bounded.
        alpha: Failure probability.
        method: The estimator's name.
        counts: The counts it was computed from.
        ceiling: The bound that a perfect attack of the same design would have given. A claim above
            it cannot be contradicted by this design, whatever the scores.
        assumptions: What must hold for the bound to hold.
        valid: False if the design cannot give a bound above 0.
        reasons: What to know about this value; why it is not valid.
        sigma: The noise multiplier from which `epsilon` follows, exceeded by the true one with
            probability <= alpha; None for methods that use no noise multiplier.
    """

    epsilon: float
    mu: float | None
    delta: float
    alpha: float
    method: str
    counts: Mapping[str, int]
    ceiling: float
    assumptions: tuple[str, ...]
    valid: bool = True
    reasons: tuple[str, ...] = ()
    sigma: float | None = None

    @property
    def low(self) -> float:
        """The bound again: the lower end of the interval for epsilon."""
        return self.epsilon

    @property
    def high(self) -> float:
        """Infinity: an attack that fails proves nothing."""
        return math.inf


def make_bound(
    epsilon: float,
    mu: float | None,
    delta: float,
    alpha: float,
    method: str,
    counts: Mapping[str, int],
    ceiling: float,
    assumptions: tuple[str, ...],
) -> Bound:
    """The Bound of these fields, marked invalid when its design cannot show anything."""
    reasons = () if ceiling > 0 else ("a perfect attack would give 0: make more guesses or runs",)
    return Bound(
        epsilon, mu, delta, alpha, method, counts, ceiling, assumptions, ceiling > 0, reasons
    )


def check_count(name: str, value: SupportsIndex, low: int, high: int | None = None) -> int:
    """The value as an int, checked to lie in [low, high].

    Raises:
        ValueError: It is not an integer or lies outside; the message names it.
    """
    expected = f"at least {low}" if high is None else f"from {low} to {high}"
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected an integer {expected}.") from None
    if count < low or (high is not None and count > high):
        raise ValueError(f"{name} is {count}; expected an integer {expected}.")
    return count


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha, a failure probability, lies in (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a failure probability in (0, 1), as .05.")


def check_delta(delta: float) -> None:
    """Raise ValueError unless delta lies in [0, 1)."""
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; expected a probability in [0, 1), as 1e-5.")


def check_scores(name: str, values: Scores) -> NDArray[np.float64]:
    """The scores as float64, in their shape (a number has shape ()); tensors come to the CPU.

    Raises:
        ValueError: There are none, or NaN is among them.
    """
    if hasattr(values, "detach"):  # a tensor; numpy knows neither its device nor bfloat16
        values = values.detach().cpu().double().numpy()
    scores = np.asarray(values, dtype=np.float64)
    if scores.size == 0:
        raise ValueError(f"{name} is empty; expected at least one score.")
    if np.isnan(scores).any():
        raise ValueError(
            f"{name} has {int(np.isnan(scores).sum())} NaN among {scores.size} scores; a diverged "
            "model has no ranking: find the step at which its loss became NaN."
        )
    return scores


def check_hits(hits: int, canaries: int, bits: float, alpha: float) -> dict[str, int]:
    """The counts of an exposure bound, checked; errors as in `check_count`."""
    check_alpha(alpha)
    if not 0 < bits < math.inf:
        raise ValueError(f"bits is {bits}; expected a finite exposure above 0.")
    n = check_count("canaries", canaries, 1)
    return {"hits": check_count("hits", hits, 0, n), "canaries": n}


def _check(successes: Counts, trials: int, alpha: float) -> NDArray[np.int64]:
    check_alpha(alpha)
    n = check_count("trials", trials, 1)
    k = np.asarray(successes)
    if k.dtype.kind not in "iu" or (k < 0).any() or (k > n).any():
        raise ValueError(f"successes are {successes!r}; expected integers from 0 to {n} trials.")
    return k.astype(np.int64)
