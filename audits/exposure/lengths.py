"""Exposure where secrets differ in their number of tokens."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from audits.exposure.ranks import sampled
from audits.exposure.value import Exposure, Seed, Ties, check_pool
from audits.intervals import Scores, check_scores

__all__ = ["stratified"]

SAME_LENGTH: Final = "each canary is ranked among the references of its own number of tokens"


def stratified(
    loss: Scores,
    references: Scores,
    lengths: Scores,
    reference_lengths: Scores,
    ties: Ties = "worst",
    alpha: float = 0.05,
    rng: Seed = None,
) -> Exposure:
    """Exposure by rank among the sampled references of the same number of tokens.

    A summed loss grows with the number of tokens: among longer references a secret that was never
    trained on looks memorized. As `sampled`, with the references and null mean of each length;
    `ceiling` is the largest one.

    Args:
        loss: The canaries' losses [n].
        references: Losses [N] of strings never trained on.
        lengths: Secret tokens of each canary [n].
        reference_lengths: Secret tokens of each reference [N].
        ties: As in `sampled`.
        alpha: Failure probability of each canary's interval.
        rng: Generator or seed, required by random ties.

    Raises:
        ValueError: As `sampled`; lengths of another shape than the losses; or no reference has the
            length of some canary.
    """
    scores, pool = check_scores("loss", loss), check_pool(references)
    mine = _lengths("lengths", lengths, scores)
    theirs = _lengths("reference_lengths", reference_lengths, pool)
    if missing := sorted({*mine.ravel().tolist()} - {*theirs.tolist()}):
        raise ValueError(
            f"No reference has {missing[0]:g} tokens, as a canary has; draw references with as "
            "many tokens as the canaries."
        )
    rng = None if rng is None else np.random.default_rng(rng)
    strata = {
        length: sampled(scores[mine == length], pool[theirs == length], ties, alpha, rng)
        for length in np.unique(mine).tolist()
    }
    counts = {
        name: _joined(mine, {length: part.counts[name] for length, part in strata.items()}, int)
        for name in ("references", "below", "tied")
    }
    parts = list(strata.values())
    return Exposure(
        bits=_joined(mine, {length: part.bits for length, part in strata.items()})[()],
        low=_joined(mine, {length: part.low for length, part in strata.items()})[()],
        high=_joined(mine, {length: part.high for length, part in strata.items()})[()],
        p_value=_joined(mine, {length: part.p_value for length, part in strata.items()})[()],
        method=f"sampled by length, {ties} ties",
        counts=counts,
        ceiling=max(part.ceiling for part in parts),
        alpha=alpha,
        assumptions=(*parts[0].assumptions, SAME_LENGTH),
        reasons=tuple(dict.fromkeys(reason for part in parts for reason in part.reasons)),
    )


def _joined(mine: NDArray[np.float64], of: dict[float, Any], kind: type = float) -> NDArray[Any]:
    """Each canary's value from its stratum, in the canaries' order."""
    result: NDArray[Any] = np.empty(mine.shape, dtype=kind)
    for length, part in of.items():
        result[mine == length] = part
    return result


def _lengths(name: str, values: Scores, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = check_scores(name, values)
    if counts.shape != losses.shape:
        raise ValueError(f"{name} have shape {counts.shape}; expected {losses.shape}, the losses'.")
    return counts
