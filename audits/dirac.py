"""Scores of gradient canaries that own one coordinate each, and what to expect of them.

Canary i adds one sensitivity to its coordinate in the steps that it is drawn for. An adversary who
knows every other record sees there, in units of the sensitivity, `x_t ~ N(b_t, sigma^2)` with
`b_t ~ Bernoulli(q)` if the canary is in, and 0 if it is out, independently of all other canaries
(Nasr et al. 2023; Steinke, Nasr and Jagielski 2023).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from audits.intervals import upper

ATTACK = "likelihood ratio of Dirac canaries at the noise seen beside them"
THRESHOLD = 0.0
"""Above which `scores` decide that a canary is in."""
_SIMULATED = 10_000  # canaries on each side; any number gives a valid threshold
_OBSERVATIONS = 40_000_000  # simulated at most on each side, where steps are many
_FEWEST = 1000
_AT_ONCE = 2_000_000  # simulated observations held in memory


class Plan(NamedTuple):
    """A threshold to declare, and the error rates there if the claim is met exactly.

    Attributes:
        threshold: In nats of the likelihood ratio.
        fpr: Share of canaries outside that score above it.
        tpr: Share of canaries inside that do.
    """

    threshold: float
    fpr: float
    tpr: float


def log_ratio(
    observed: NDArray[np.float64], rate: float, noise_multiplier: float
) -> NDArray[np.float64]:
    """[m] the log of P(observed | in) / P(observed | out) under the claimed mechanism.

    `sum_t log(1 - q + q exp((x_t - 1/2) / sigma^2))`: by Neyman and Pearson the best score against
    a mechanism that is as claimed, and a valid one against any other.

    Args:
        observed: [T, m] what was released at each canary's coordinate, less what all other records
            put there, in units of the claimed sensitivity.
        rate: q, the claimed sampling rate.
        noise_multiplier: sigma, as claimed.

    Raises:
        ValueError: q outside (0, 1], sigma not above 0, or observations that are not [T, m] or not
            numbers.
    """
    if not 0 < rate <= 1 or not 0 < noise_multiplier < math.inf:
        raise ValueError(
            f"rate is {rate} and noise_multiplier {noise_multiplier}; expected a rate in (0, 1] "
            "and noise above 0 (without noise there is no claim to audit)"
        )
    if observed.ndim != 2 or not observed.size or np.isnan(observed).any():
        raise ValueError(
            f"observed has shape {observed.shape} and {int(np.isnan(observed).sum())} NaN; expected"
            " [steps, canaries] numbers"
        )
    nats = (observed - 0.5) / noise_multiplier**2
    if rate == 1:
        return np.asarray(nats.sum(0))
    return np.asarray(np.logaddexp(math.log1p(-rate), math.log(rate) + nats).sum(0))


def scores(
    observed: NDArray[np.float64],
    beside: NDArray[np.float64],
    *,
    rate: float,
    noise_multiplier: float,
    alpha: float,
) -> NDArray[np.float64]:
    """[m] the log ratio at the noise that is there, less the best threshold for that noise.

    A ratio for the noise that is claimed would overlook noise that is much too small: rare draws
    then stand out clearly, but by less than what the claimed noise makes of them. The noise is
    measured where no canary is, so it knows nothing of coins, and the trials stay independent.

    Args:
        observed: [T, m] as in `log_ratio`.
        beside: [T, k] the same at coordinates that no canary owns.
        rate: q, the claimed sampling rate.
        noise_multiplier: sigma, as claimed; noise below a thousandth of it is taken for that.
        alpha: Failure probability of the bound, which the best threshold depends on.

    Raises:
        ValueError: as `log_ratio`, or no coordinates without a canary.
    """
    if beside.ndim != 2 or not beside.size or np.isnan(beside).any():
        raise ValueError(
            f"beside has shape {beside.shape} and {int(np.isnan(beside).sum())} NaN; expected "
            "[steps, coordinates] numbers, from coordinates that no canary owns"
        )
    seen = max(float(np.sqrt(np.mean(beside**2))), noise_multiplier / 1000)
    steps, canaries = observed.shape
    best = plan(canaries=canaries, rate=rate, steps=steps, noise_multiplier=seen, alpha=alpha)
    return log_ratio(observed, rate, seen) - best.threshold


def plan(
    *, canaries: int, rate: float, steps: int, noise_multiplier: float, alpha: float, seed: int = 0
) -> Plan:
    """The threshold with the best prospects against a mechanism that is exactly as claimed.

    Best is the mu that the Clopper-Pearson limits of the expected error rates allow. Both rates
    come from a simulation of the claimed mechanism, which the audit itself does not rest on.

    Args:
        canaries: m, half of them in.
        rate: q, the claimed sampling rate.
        steps: T.
        noise_multiplier: sigma, as claimed.
        alpha: Failure probability of the bound.
        seed: Of the simulation.
    """
    rng = np.random.default_rng(seed)
    out, into = (
        np.sort(_simulated(rng, inside, rate, steps, noise_multiplier)) for inside in (0, 1)
    )
    thresholds = np.quantile(np.concatenate([out, into]), np.linspace(0.001, 0.999, 999))
    fpr = 1 - np.searchsorted(out, thresholds, side="right") / len(out)
    tpr = 1 - np.searchsorted(into, thresholds, side="right") / len(into)
    half = max(1, canaries // 2)
    fp, misses = (np.rint(half * share).astype(np.int64) for share in (fpr, 1 - tpr))
    prospects = ndtri(1 - upper(fp, half, alpha / 2)) - ndtri(upper(misses, half, alpha / 2))
    best = int(np.argmax(np.nan_to_num(prospects, nan=-math.inf, posinf=-math.inf)))
    return Plan(float(thresholds[best]), float(fpr[best]), float(tpr[best]))


def _simulated(
    rng: np.random.Generator, inside: int, rate: float, steps: int, sigma: float
) -> NDArray[np.float64]:
    """[n] log ratios of canaries that are all in, or all out."""
    many = max(_FEWEST, min(_SIMULATED, _OBSERVATIONS // steps))
    chunk = max(1, min(many, _AT_ONCE // steps))
    parts = []
    for start in range(0, many, chunk):
        size = (steps, min(chunk, many - start))
        drawn = inside * rng.binomial(1, rate, size)
        parts.append(log_ratio(drawn + sigma * rng.standard_normal(size), rate, sigma))
    return np.concatenate(parts)
