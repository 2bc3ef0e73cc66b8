"""Exposure beyond the rank that references can show, from a law fitted to them and tested."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from audits import skewnormal
from audits.exposure.ranks import sampled
from audits.exposure.value import Exposure, Seed, bits_of, check_pool
from audits.intervals import Scores, check_scores, lower, upper

__all__ = ["extrapolated"]

# The fit needs this many references; more than FITTED add cost and no accuracy worth it.
FEWEST, FITTED, REFITS = 1000, 10_000, 200
# Policy: below this p-value of the fit an extrapolation is not used.
DOUBTFUL = 0.1
# Sampling counts of at least this are exact enough to check an extrapolation against.
COMPARABLE = 10


def extrapolated(
    loss: Scores, references: Scores, space: float, alpha: float = 0.05, rng: Seed = None
) -> Exposure:
    """Exposure from a skew-normal fitted to the references: `-log2 F(loss)`, at most log2 |R|.

    The fit is checked: it must not be rejected by a parametric bootstrap of Kolmogorov and
    Smirnov's distance (p < 0.1), and must agree with sampling's interval where at least 10
    references lie below a canary. Where it fails, `bits` is sampling's lower bound and `valid` is
    False. The interval is the parametric bootstrap's (Carlini et al. 2019, section 4.3, for the
    extrapolation).

    Args:
        loss: The canaries' losses, a number or [n].
        references: Losses [N] of strings never trained on; at least 1,000 for a fit, which uses
            10,000 of them at random.
        space: |R|, the number of strings the secret could have been.
        alpha: Failure probability of each canary's interval.
        rng: Generator or seed; None is seed 0, so that the same scores give the same bits.

    Raises:
        ValueError: NaN or no scores, references not [N], alpha outside (0, 1), a space below 2.
    """
    plain = sampled(loss, references, alpha=alpha, space=space)
    scores, pool = check_scores("loss", loss), check_pool(references)
    limit = bits_of(space)
    rng = np.random.default_rng(0 if rng is None else rng)
    if len(pool) < FEWEST or not np.isfinite(pool).all() or np.ptp(pool) == 0:
        return _fallen_back(plain, f"a fit needs {FEWEST} finite references that are not all equal")
    if len(pool) > FITTED:
        pool = rng.choice(pool, FITTED, replace=False)
    law = skewnormal.fit(pool)
    fit_p, laws = skewnormal.bootstrap(pool, law, rng, REFITS)

    def bits_under(law: skewnormal.SkewNormal) -> NDArray[np.float64]:
        return np.clip(-skewnormal.log_cdf(scores, law) / math.log(2), 0, limit)

    bits = bits_under(law)
    if fit_p < DOUBTFUL:
        return _fallen_back(plain, f"the references are not skew-normal (p = {fit_p:.3f})")
    if wrong := _disagreeing(bits, scores, pool, alpha):
        return _fallen_back(plain, f"the fit disagrees with sampling for {wrong} canaries")
    low, high = np.quantile([bits_under(other) for other in laws], [alpha / 2, 1 - alpha / 2], 0)
    far = int((bits > math.log2(len(pool)) + 10).sum())
    flag = f"{far} of {scores.size} canaries lie more than 10 bits beyond all references"
    return Exposure(
        bits=bits[()],
        low=np.minimum(low, bits)[()],
        high=np.maximum(high, bits)[()],
        p_value=(2.0**-bits)[()],
        method="extrapolated",
        counts={**plain.counts, "fitted": len(pool), "refits": REFITS},
        ceiling=limit,
        alpha=alpha,
        assumptions=(*plain.assumptions, f"reference losses are skew-normal (p = {fit_p:.3f})"),
        reasons=(flag,) if far else (),
    )


def _fallen_back(plain: Exposure, reason: str) -> Exposure:
    """Sampling's lower bound in place of an extrapolation that cannot be used."""
    return dataclasses.replace(
        plain,
        bits=plain.low,
        method="extrapolated, fallen back to sampling's lower bound",
        valid=False,
        reasons=(reason, *plain.reasons),
    )


def _disagreeing(
    bits: NDArray[np.float64], scores: NDArray[np.float64], pool: NDArray[np.float64], alpha: float
) -> int:
    """Canaries whose extrapolation lies outside sampling's interval, among comparable ones.

    The intervals share alpha, or one of many canaries would fail by chance.
    """
    k = np.searchsorted(np.sort(pool), scores, side="right")
    comparable = k >= COMPARABLE
    if not comparable.any():
        return 0
    share = alpha / int(comparable.sum())
    low = -np.log2(upper(k[comparable], len(pool), share / 2))
    high = -np.log2(lower(k[comparable], len(pool), share / 2))
    found = bits[comparable]
    return int(((found < low) | (found > high)).sum())
