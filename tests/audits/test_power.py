"""The prospects of an audit, told before training."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from audits.bounds import clopper_pearson, steinke
from audits.gaussian_dp import epsilon_of
from audits.power import canaries_needed, of_guesses, of_threshold

DELTA = 1e-5


def test_a_design_whose_ceiling_is_below_the_claim_says_so() -> None:
    """200 guesses of 1,000 canaries show at most 4.17, and a claim of mu = 1 is 4.377."""
    seen = of_guesses(canaries=1000, guesses=200, claim=epsilon_of(1.0, DELTA), delta=DELTA)
    assert seen.ceiling == pytest.approx(4.166490, abs=1e-6)
    assert not seen.resolves
    assert "cannot be contradicted" in seen.sentence
    assert "or gradient canaries" in seen.advice


def test_a_design_that_can_speak_gives_no_advice() -> None:
    seen = of_guesses(canaries=1000, guesses=500, claim=4.377, delta=DELTA)
    assert seen.ceiling == pytest.approx(5.087549, abs=1e-6)
    assert seen.resolves
    assert (seen.advice, "cannot" in seen.sentence) == ("", False)


@pytest.mark.parametrize(("mu", "r", "expected"), [(1.0, 100, 1.626), (2.0, 300, 3.196)])
def test_the_expected_bound(mu: float, r: int, expected: float) -> None:
    seen = of_guesses(canaries=1000, guesses=r, claim=epsilon_of(mu, DELTA), delta=DELTA)
    assert seen.expected == pytest.approx(expected, abs=0.03)


def test_the_expected_bound_is_what_audits_of_the_claim_find() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        coins = rng.integers(0, 2, 1000) == 1
        order = np.argsort(coins + rng.standard_normal(1000))
        right = int((~coins[order[:50]]).sum() + coins[order[-50:]].sum())
        found.append(steinke(canaries=1000, guesses=100, correct=right, delta=DELTA).epsilon)
    seen = of_guesses(canaries=1000, guesses=100, claim=epsilon_of(1.0, DELTA), delta=DELTA)
    assert seen.expected == pytest.approx(np.mean(found), abs=0.1)


def test_no_claim_needs_no_advice() -> None:
    seen = of_guesses(canaries=100, guesses=30, claim=math.inf, delta=DELTA)
    assert not seen.resolves
    assert seen.ceiling == steinke(canaries=100, guesses=30, correct=30, delta=DELTA).epsilon


def test_canaries_needed_is_where_the_ceiling_crosses_the_claim() -> None:
    needed = canaries_needed(4.377, DELTA)
    assert needed is not None

    def ceiling(m: int) -> float:
        return of_guesses(
            canaries=m, guesses=m // (10 if m >= 1000 else 3) // 2 * 2, claim=4.377, delta=DELTA
        ).ceiling

    assert ceiling(needed) > 4.377
    assert ceiling(int(needed / 1.15)) <= 4.377
    assert canaries_needed(40.0, DELTA) is None


def test_a_threshold_is_judged_at_the_rates_that_the_claim_implies() -> None:
    tp, fp = (round(500 * float(ndtr(x))) for x in (0.5, -0.5))
    at = clopper_pearson(tp=tp, fp=fp, n_in=500, n_out=500, delta=DELTA)
    seen = of_threshold(at, 4.377)
    assert (seen.expected, seen.ceiling) == (at.epsilon, at.ceiling)
    assert seen.resolves == (at.ceiling > 4.377)
