"""Exposure: how far up a secret ranks among the strings it could have been (Carlini et al. 2019).

For a secret drawn uniformly from a space R of equally likely fillings,
`exposure = log2 |R| - log2 rank`, by increasing loss: 0 bits at the bottom, log2 |R| at the top,
and 2^-exposure is the p-value of "not memorized". Losses are summed over the same number of secret
tokens for all; low = member-like. Numbers, lists, numpy arrays and torch tensors are taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaincinv, gammaln

from audits import skewnormal
from audits.intervals import (
    Scores,
    check_alpha,
    check_count,
    check_scores,
    lower,
    mean_interval,
    upper,
)

__all__ = [
    "Exposure",
    "exact",
    "extrapolated",
    "mean",
    "null_maximum",
    "null_mean",
    "null_mean_quantile",
    "references_needed",
    "sampled",
]

# One value for each canary, in the shape of the losses: a float for a single loss.
Values: TypeAlias = float | NDArray[np.float64]
Ties = Literal["worst", "random", "mid"]
Seed = np.random.Generator | int | None

UNIFORM: Final = "the secret was drawn uniformly from its space"
HELD_OUT: Final = "references: uniform from the same space, as many tokens, never trained on"
MID: Final = "mid ranks are for display; p-value and interval allow for every resolution of ties"

# The fit needs this many references; more than FITTED add cost and no accuracy worth it.
FEWEST, FITTED, REFITS = 1000, 10_000, 200
# Policy: below this p-value of the fit an extrapolation is not used.
DOUBTFUL = 0.1
# Sampling counts of at least this are exact enough to check an extrapolation against.
COMPARABLE = 10


@dataclass(frozen=True, eq=False)
class Exposure:
    """Exposures of one or many canaries, in bits.

    Attributes:
        bits: The estimate, in the shape of the losses.
        low: Lower end of each canary's interval at level 1 - alpha, in bits.
        high: Upper end; infinite where no reference has a lower loss and the space is not known.
        p_value: Of "this secret was not memorized".
        method: The estimator's name.
        counts: Sizes; for sampling also the references `below` and `tied` with each canary.
        ceiling: The largest exposure this estimator could have returned.
        alpha: Failure probability of each interval.
        assumptions: What must hold.
        valid: Whether the estimate can be used as what `method` says.
        reasons: What to know about the values; why they are not valid.
    """

    bits: Values
    low: Values
    high: Values
    p_value: Values
    method: str
    counts: Mapping[str, int | NDArray[np.int64]]
    ceiling: float
    alpha: float
    assumptions: tuple[str, ...]
    valid: bool = True
    reasons: tuple[str, ...] = ()


def sampled(
    loss: Scores,
    references: Scores,
    ties: Ties = "worst",
    alpha: float = 0.05,
    rng: Seed = None,
    space: float | None = None,
) -> Exposure:
    """Exposure by rank among N sampled references: `log2((N + 1) / (k + 1))`.

    k references have a lower loss, t the same. Its p-value (k + 1) / (N + 1) is exact when the
    secret and the references are exchangeable. The interval is Clopper and Pearson's for the share
    of the space below the secret; it is not clipped at the ceiling log2(N + 1), which bounds the
    estimate and not the exposure.

    Args:
        loss: The canaries' losses, a number or [n].
        references: Losses [N] of strings never trained on, shared by all canaries.
        ties: "worst" counts k + t, and never overstates; "random" k + uniform {0..t}, exactly
            uniform when nothing was memorized; "mid" k + t/2, for display.
        alpha: Failure probability of each canary's interval.
        rng: Generator or seed, required by random ties.
        space: |R| where known; no exposure exceeds log2 |R|.

    Raises:
        ValueError: NaN or no scores, references not [N], unknown ties, random ties without `rng`,
            alpha outside (0, 1), or a space below 2.
    """
    check_alpha(alpha)
    limit = math.inf if space is None else _bits_of(space)
    scores, pool = check_scores("loss", loss), _references(references)
    n, ordered = len(pool), np.sort(pool)
    below = np.searchsorted(ordered, scores, side="left").astype(np.int64)
    tied = np.searchsorted(ordered, scores, side="right") - below
    worst = below + tied
    rank = 1 + _resolve(ties, below, tied, rng)
    bits = np.minimum(np.log2((n + 1) / rank), limit)
    with np.errstate(divide="ignore"):  # -log2(0): no reference below, nothing bounds the exposure
        low = -np.log2(upper(worst, n, alpha / 2))
        high = -np.log2(lower(worst if ties == "worst" else below, n, alpha / 2))
    first = int((worst == 0).sum())
    censored = (
        f"{first} of {scores.size} canaries rank before all {n} references: their exposure is at "
        "least `low`, and more references would tell more"
    )
    return Exposure(
        bits=bits[()],
        low=np.minimum(low + 0.0, bits)[()],
        high=np.clip(high, bits, limit)[()],
        p_value=((1 + worst if ties == "mid" else rank) / (n + 1))[()],
        method=f"sampled, {ties} ties",
        counts={"references": n, "below": below, "tied": tied},
        ceiling=min(math.log2(n + 1), limit),
        alpha=alpha,
        assumptions=(UNIFORM, HELD_OUT, *((MID,) if ties == "mid" else ())),
        reasons=(censored,) if first else (),
    )


def exact(loss: Scores, candidates: Scores) -> Exposure:
    """Exposure by rank among all |R| candidates: `log2 |R| - log2 rank`, without sampling error.

    Candidates with the secret's own loss rank before it.

    Args:
        loss: The canaries' losses, a number or [n], each taken from `candidates`: the same string
            scored in another batch differs in the last bits.
        candidates: Losses [|R|] of the whole space, the secrets among them.

    Raises:
        ValueError: NaN or no scores, or candidates not [|R|].
    """
    scores, pool = check_scores("loss", loss), _references(candidates, "candidates")
    size, ordered = len(pool), np.sort(pool)
    below = np.searchsorted(ordered, scores, side="left")
    rank = np.searchsorted(ordered, scores, side="right")
    missing = int((rank == below).sum())
    rank = np.where(rank == below, np.minimum(below + 1, size), rank)
    bits = np.log2(size / rank)
    return Exposure(
        bits=bits[()],
        low=bits[()],
        high=bits[()],
        p_value=(rank / size)[()],
        method="exact",
        counts={"space": size},
        ceiling=math.log2(size),
        alpha=0.0,
        assumptions=(UNIFORM, "candidates are the whole space, all equally likely"),
        valid=missing == 0,
        reasons=(
            f"{missing} of {scores.size} losses are not among the candidates: take each from "
            "candidates[index of the secret]",
        )
        if missing
        else (),
    )


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
    scores, pool = check_scores("loss", loss), _references(references)
    limit = _bits_of(space)
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


def null_mean(references: int) -> float:
    """The mean sampled exposure when nothing was memorized: `log2(N+1) - log2((N+1)!) / (N+1)`.

    0 references stand for infinitely many: log2 e = 1.442695. For exact ranks N + 1 is |R|.
    """
    if check_count("references", references, 0) == 0:
        return 1 / math.log(2)
    ranks = references + 1
    return math.log2(ranks) - float(gammaln(ranks + 1)) / (ranks * math.log(2))


def null_mean_quantile(canaries: int, probability: float = 0.95) -> float:
    """The quantile of the mean of n exposures when nothing was memorized, for many references.

    Exposures are then Exp(ln 2), and their sum is a Gamma variable.
    """
    n = check_count("canaries", canaries, 1)
    check_alpha(1 - probability)
    return float(gammaincinv(n, probability)) / (n * math.log(2))


def null_maximum(canaries: int, alpha: float = 0.05) -> float:
    """The bits that the largest of n exposures exceeds with probability <= alpha under the null."""
    check_alpha(alpha)
    return math.log2(check_count("canaries", canaries, 1) / alpha)


def references_needed(bits: float, alpha: float = 0.05) -> int:
    """The fewest references with which a secret that beats them all shows at least `bits`.

    `N >= ln(alpha) / ln(1 - 2^-bits)`, the one-sided Clopper-Pearson limit at k = 0.

    Raises:
        ValueError: `bits` is not above 0, or alpha is outside (0, 1).
    """
    check_alpha(alpha)
    if not 0 < bits < 1000:
        raise ValueError(f"bits is {bits}; expected an exposure above 0 (and below 1000).")
    return math.ceil(math.log(alpha) / math.log1p(-(2.0**-bits)))


def _resolve(
    ties: Ties, below: NDArray[np.int64], tied: NDArray[np.int64], rng: Seed
) -> NDArray[np.float64]:
    """How many references rank before each canary, ties resolved."""
    if ties == "worst":
        return np.asarray(below + tied, np.float64)
    if ties == "mid":
        return below + tied / 2
    if ties == "random":
        if rng is None:
            raise ValueError('ties="random" needs rng, a numpy Generator or a seed.')
        drawn = np.random.default_rng(rng).integers(0, tied + 1)
        return np.asarray(below + drawn, np.float64)
    because = " (ties counted for the secret make chance look like memorization)"
    raise ValueError(
        f'ties is {ties!r}{because if ties == "best" else ""}; expected "worst", "random" or "mid".'
    )


def _references(values: Scores, name: str = "references") -> NDArray[np.float64]:
    pool = check_scores(name, values)
    if pool.ndim != 1:
        raise ValueError(f"{name} have shape {pool.shape}; expected [N], shared by all canaries.")
    return pool


def _bits_of(space: float) -> float:
    if not 2 <= space < math.inf:
        raise ValueError(
            f"space is {space}; expected the finite number of strings |R|, at least 2."
        )
    return math.log2(space)


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


def _parts(exposures: Exposure | Sequence[Exposure] | Scores) -> list[Exposure]:
    if isinstance(exposures, Exposure):
        return [exposures]
    if isinstance(exposures, Sequence) and exposures and isinstance(exposures[0], Exposure):
        return [part for part in exposures if isinstance(part, Exposure)]
    bits = check_scores("exposures", exposures)  # type: ignore[arg-type]
    return [Exposure(bits, bits, bits, 2.0**-bits, "given", {}, math.inf, 0.0, ())]
