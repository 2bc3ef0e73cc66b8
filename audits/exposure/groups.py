"""The mean exposure of a group of canaries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaincc

from audits.exposure.value import UNIFORM, Exposure, Seed
from audits.intervals import Scores, check_alpha, check_scores, mean_interval

__all__ = ["mean"]


def mean(
    exposures: Exposure | Sequence[Exposure] | Scores, alpha: float = 0.05, rng: Seed = None
) -> Exposure:
    """The mean exposure of a group of canaries, with the p-value of "none was memorized".

    The interval is a BCa bootstrap over canaries (Efron 1987). Where they are all equal, or there
    is only one, resampling sees no spread: then the mean of the canaries' own intervals is taken
    and `valid` is False. The p-value is Fisher's: 2 ln 2 times the summed exposure is chi2 with 2n
    degrees under the null; references shared by the canaries hardly change it. Compare the mean
    with `null_mean(references)` and `null_mean_quantile(canaries)`.

    Args:
        exposures: Exposures of the group, or bare bits, whose p-values are then 2^-bits.
        alpha: Failure probability.
        rng: Generator or seed; None is seed 0.

    Raises:
        ValueError: There are no exposures, some are NaN, or alpha is outside (0, 1).
    """
    check_alpha(alpha)
    parts = _parts(exposures)
    bits, low, high, p = (
        np.concatenate([np.ravel(getattr(part, name)) for part in parts])
        for name in ("bits", "low", "high", "p_value")
    )
    centre, method = float(bits.mean()), "mean, BCa"
    reasons = [reason for part in parts for reason in part.reasons]
    spread = bool(np.ptp(bits) > 0)
    if spread:
        ends = mean_interval(bits, alpha, np.random.default_rng(0 if rng is None else rng))
    else:
        ends, method = (float(low.mean()), float(high.mean())), "mean, canaries' own intervals"
        reasons.insert(0, f"{len(bits)} equal exposures: no spread between canaries to resample")
    return Exposure(
        bits=centre,
        low=min(ends[0], centre),
        high=max(ends[1], centre),
        p_value=float(gammaincc(len(bits), -np.log(p).sum())),
        method=method,
        counts={"canaries": len(bits)},
        ceiling=float(
            np.average([part.ceiling for part in parts], weights=[np.size(b.bits) for b in parts])
        ),
        alpha=alpha,
        assumptions=(UNIFORM, "canaries are independent draws of their kind"),
        valid=spread and all(part.valid for part in parts),
        reasons=tuple(dict.fromkeys(reasons)),
    )


def _parts(exposures: Exposure | Sequence[Exposure] | Scores) -> list[Exposure]:
    if isinstance(exposures, Exposure):
        return [exposures]
    if isinstance(exposures, Sequence) and exposures and isinstance(exposures[0], Exposure):
        return [part for part in exposures if isinstance(part, Exposure)]
    bits = check_scores("exposures", exposures)  # type: ignore[arg-type]
    return [Exposure(bits, bits, bits, 2.0**-bits, "given", {}, math.inf, 0.0, ())]
