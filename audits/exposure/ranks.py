"""Exposure by rank: among sampled references, or among all fillings.

For a secret drawn uniformly from a space R of equally likely fillings,
`exposure = log2 |R| - log2 rank`, by increasing loss (Carlini et al. 2019, section 4.2).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from audits.exposure.value import UNIFORM, Exposure, Seed, Ties, bits_of, check_pool
from audits.intervals import Scores, check_alpha, check_scores, lower, upper

__all__ = ["exact", "sampled"]

HELD_OUT: Final = "references: uniform from the same space, as many tokens, never trained on"
MID: Final = "mid ranks are for display; p-value and interval allow for every resolution of ties"


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
    limit = math.inf if space is None else bits_of(space)
    scores, pool = check_scores("loss", loss), check_pool(references)
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
    scores, pool = check_scores("loss", loss), check_pool(candidates, "candidates")
    size, ordered = len(pool), np.sort(pool)
    below = np.searchsorted(ordered, scores, side="left").astype(np.int64)
    rank = np.searchsorted(ordered, scores, side="right")
    missing = int((rank == below).sum())
    rank = np.where(rank == below, np.minimum(below + 1, size), rank).astype(np.int64)
    bits = np.log2(size / rank)
    return Exposure(
        bits=bits[()],
        low=bits[()],
        high=bits[()],
        p_value=(rank / size)[()],
        method="exact",
        counts={"space": size, "below": below, "tied": np.maximum(rank - below - 1, 0)},
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
