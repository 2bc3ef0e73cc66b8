"""What an audit can show, told before training: one that cannot fail shows nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from audits.bounds import default_guesses, expected_correct, steinke
from audits.gaussian_dp import mu_of
from audits.intervals import Bound

_MOST = 1 << 17  # beyond about 30,000 canaries the ceiling of one run falls again


@dataclass(frozen=True)
class Power:
    """The prospects of a bound.

    Attributes:
        claim: The epsilon that is claimed.
        ceiling: The bound if the attack is always right.
        expected: The bound to expect from the best attack on training that just meets the claim.
            Attacks on the final model alone are weaker.
        advice: What to change if the ceiling is below the claim; else empty.
    """

    claim: float
    ceiling: float
    expected: float
    advice: str = ""

    @property
    def resolves(self) -> bool:
        """Whether the claim could be contradicted at all."""
        return self.ceiling > self.claim

    @property
    def sentence(self) -> str:
        """The same in words."""
        told = (
            f"claim {self.claim:.3g}: an attack that is always right would show {self.ceiling:.3g},"
            f" the best one on training that just meets the claim about {self.expected:.3g}"
        )
        return told if self.resolves else f"{told}; the claim cannot be contradicted. {self.advice}"


def of_guesses(
    *, canaries: int, guesses: int, claim: float, delta: float, alpha: float = 0.05
) -> Power:
    """The prospects of Steinke, Nasr and Jagielski's bound from one run.

    Args:
        canaries: m, those of repetition 1.
        guesses: r.
        claim: The epsilon claimed at delta; inf where none is.
        delta: In (0, 1).
        alpha: Failure probability.

    Raises:
        ValueError: An argument outside its range.
    """

    def bound(correct: int) -> Bound:
        return steinke(
            canaries=canaries, guesses=guesses, correct=correct, delta=delta, alpha=alpha
        )

    ceiling = bound(guesses).epsilon
    if math.isinf(claim):
        return Power(claim, ceiling, ceiling, "No epsilon is claimed.")
    typical = math.floor(expected_correct(canaries, guesses, mu_of(claim, delta)))
    return Power(
        claim,
        ceiling,
        bound(typical).epsilon,
        "" if ceiling > claim else _advice(claim, delta, alpha),
    )


def of_threshold(seen: Bound, claim: float) -> Power:
    """The prospects of a bound from error rates.

    Args:
        seen: The bound at the error rates to expect if the claim is met exactly.
        claim: The epsilon claimed at its delta.
    """
    return Power(claim, seen.ceiling, seen.epsilon, "Use more canaries.")


def canaries_needed(claim: float, delta: float, alpha: float = 0.05) -> int | None:
    """The fewest canaries whose one-run ceiling, at the default guesses, exceeds the claim.

    To within a tenth; None where no number does, since each canary also costs some delta.
    """
    m = 2
    while m <= _MOST:
        r = max(2, default_guesses(m) // 2 * 2)
        if r <= m:
            seen = steinke(canaries=m, guesses=r, correct=r, delta=delta, alpha=alpha)
            if seen.epsilon > claim:
                return m
        m = max(m + 1, math.ceil(m * 1.1))
    return None


def _advice(claim: float, delta: float, alpha: float) -> str:
    needed = canaries_needed(claim, delta, alpha)
    if needed is None:
        return "No number of canaries in one run can: use gradient canaries, or several runs."
    return f"Use {needed} canaries of repetition 1 or more, or gradient canaries."
