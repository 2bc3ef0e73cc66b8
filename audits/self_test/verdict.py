"""What gradient canaries say of one run: a lower bound beside the claim, and a test of the noise.

At q = 1 the claimed mechanism is Gaussian, and the bound is that for Gaussian trade-off curves. At
q < 1 it is not; the bound then takes the trade-off curves of T subsampled steps, for some noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audits import dirac
from audits.bounds import gaussian, gaussian_one_run, steinke
from audits.claimed_curve import subsampled, subsampled_one_run
from audits.intervals import Bound, check_alpha, check_count, check_delta
from audits.self_test.noise import correlation, repetition


class Claim(NamedTuple):
    """What a loop says of itself.

    Attributes:
        epsilon: at the design's delta.
        rate: q.
        noise_multiplier: sigma.
        steps: T.
    """

    epsilon: float
    rate: float
    noise_multiplier: float
    steps: int

    @property
    def mu(self) -> float | None:
        """Mean shift of the claimed Gaussian mechanism, sqrt(T) / sigma; None below q = 1."""
        return math.sqrt(self.steps) / self.noise_multiplier if self.rate == 1 else None


@dataclass(frozen=True)
class Observed:
    """What canaries saw of one run, in units of the claimed sensitivity.

    Attributes:
        ids: [m] names of the canaries.
        inserted: [m] their coins.
        places: [T, m] what was released at each canary, from where one is that is not drawn.
        beside: [T, k] what was released where no canary is.
        claim: of the loop.

    Raises:
        ValueError: shapes that do not fit together, numbers that are not finite, an id twice, or
            no claim.
    """

    ids: tuple[str, ...]
    inserted: NDArray[np.bool_]
    places: NDArray[np.float64]
    beside: NDArray[np.float64]
    claim: Claim

    def __post_init__(self) -> None:
        """Refuses what would make a number that means nothing."""
        m, steps = len(self.ids), self.claim.steps
        if len(set(self.ids)) != m or self.inserted.shape != (m,):
            raise ValueError(
                f"found {len(set(self.ids))} different ids and coins of shape "
                f"{self.inserted.shape} for {m} canaries; expected one of each"
            )
        if self.places.shape != (steps, m) or self.beside.shape[:1] != (steps,):
            raise ValueError(
                f"found observations of shapes {self.places.shape} and {self.beside.shape}; "
                f"expected {steps} steps and {m} canaries"
            )
        if not (np.isfinite(self.places).all() and np.isfinite(self.beside).all()):
            raise ValueError("found NaN or infinite updates; training has diverged")
        if not (0 < self.claim.epsilon < math.inf and self.claim.noise_multiplier > 0):
            raise ValueError(f"the loop claims epsilon {self.claim.epsilon}: nothing to be tested")


@dataclass(frozen=True)
class Design:
    """How observations are judged, fixed before any is made.

    Attributes:
        guesses: r of the one-run bounds: the r/2 highest scores are guessed in, the lowest out.
        delta: at which epsilon is claimed and bounded.
        alpha: failure probability of each bound, and of the test of the noise.

    Raises:
        ValueError: a number out of its range.
    """

    guesses: int = 200
    delta: float = 1e-5
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuses numbers out of range."""
        check_delta(self.delta)
        check_alpha(self.alpha)
        if check_count("guesses", self.guesses, 2) % 2:
            raise ValueError(f"guesses is {self.guesses}; expected an even number, half of them in")


@dataclass(frozen=True)
class Verdict:
    """What one run shows.

    Attributes:
        claim: of the loop.
        bound: the lower bound that decides, from one run and r guesses: `gaussian_one_run` at
            q = 1, else `subsampled_one_run`.
        steinke: the one-run bound for any mechanism, for comparison.
        trials: the bound that takes every canary for a trial of its own, for comparison:
            `gaussian` at q = 1, else `subsampled`.
        repeated: p-value of fresh noise of the claimed size, two tests together.
        alpha: of each.
    """

    claim: Claim
    bound: Bound
    steinke: Bound
    trials: Bound
    repeated: float
    alpha: float

    @property
    def exceeds(self) -> bool:
        """Whether the lower bound is above the claim."""
        return self.bound.epsilon > self.claim.epsilon

    @property
    def stale(self) -> bool:
        """Whether the noise is not fresh, or smaller than claimed."""
        return self.repeated < self.alpha


def judge(seen: Observed, design: Design) -> Verdict:
    """Returns the verdict on one run.

    Scores and thresholds are those of `audits.dirac`: they follow from the claim and from the noise
    beside the canaries, and nothing is chosen by looking at the coins.

    Raises:
        ValueError: fewer canaries than guesses, or none of a kind.
    """
    claim, m, r = seen.claim, len(seen.ids), design.guesses
    inserted = int(seen.inserted.sum())
    if m < r or inserted in (0, m):
        raise ValueError(f"found {m} canaries for {r} guesses, and {inserted} of them inserted")
    delta, alpha = design.delta, design.alpha
    rate, sigma = claim.rate, claim.noise_multiplier
    scores = dirac.scores(seen.places, seen.beside, rate=rate, noise_multiplier=sigma, alpha=alpha)
    order = np.argsort(scores, kind="stable")
    right = int((~seen.inserted[order[: r // 2]]).sum() + seen.inserted[order[m - r // 2 :]].sum())
    above = scores > dirac.THRESHOLD
    tp, fp = int((above & seen.inserted).sum()), int((above & ~seen.inserted).sum())
    n_out = m - inserted
    noise = seen.beside / sigma
    return Verdict(
        claim=claim,
        bound=_one_run(claim)(canaries=m, guesses=r, correct=right, delta=delta, alpha=alpha),
        steinke=steinke(canaries=m, guesses=r, correct=right, delta=delta, alpha=alpha),
        trials=_trials(claim)(tp=tp, fp=fp, n_in=inserted, n_out=n_out, delta=delta, alpha=alpha),
        repeated=min(1.0, 2 * min(repetition(noise), correlation(noise))),
        alpha=alpha,
    )


def _one_run(claim: Claim) -> Callable[..., Bound]:
    if claim.rate == 1:
        return gaussian_one_run
    return partial(subsampled_one_run, rate=claim.rate, steps=claim.steps)


def _trials(claim: Claim) -> Callable[..., Bound]:
    if claim.rate == 1:
        return gaussian
    return partial(subsampled, rate=claim.rate, steps=claim.steps)
