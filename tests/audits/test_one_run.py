import math
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from audits.bounds import (
    default_guesses,
    expected_correct,
    gaussian_one_run,
    hits_one_run,
    steinke,
)
from audits.gaussian_dp import epsilon_of
from audits.intervals import wilson
from audits.one_run import _steinke_p_value, rejects

# (canaries, guesses, correct, delta) -> epsilon at alpha .05
STEINKE = {
    (100, 100, 75, 0): 0.702214,
    (100, 100, 75, 1e-4): 0.699467,
    (1000, 100, 75, 1e-4): 0.672985,
    (100_000, 1510, 1439, 1e-5): 2.675851,
    (1000, 1000, 1000, 0): 5.809068,
    (1000, 1000, 1000, 1e-6): 5.806397,
    (1000, 1000, 1000, 1e-5): 5.782283,
    (1000, 1000, 1000, 1e-4): 5.529350,
    (10_000, 10_000, 10_000, 1e-5): 7.834303,
    (100, 100, 100, 1e-5): 3.490216,
    (1000, 10, 10, 1e-5): 1.014986,
    (1000, 50, 50, 1e-5): 2.756219,
    (1000, 100, 100, 1e-5): 3.465376,
    (1000, 200, 200, 1e-5): 4.166490,
    (1000, 500, 500, 1e-5): 5.087549,
    (2000, 200, 180, 1e-5): 1.79368,
    # randomized response of epsilon 1 and 4, at its expected accuracy
    (1000, 1000, 731, 0): 0.88060,
    (10_000, 10_000, 7310, 0): 0.96242,
    (1000, 1000, 982, 0): 3.60083,
    (10_000, 10_000, 9820, 0): 3.87441,
}
CEILINGS = {
    100: 3.490,
    300: 4.594,
    1000: 5.782,
    3000: 6.828,
    10_000: 7.834,
    30_000: 8.244,
    100_000: 8.128,
    300_000: 8.026,
    1_000_000: 7.948,
}
# (canaries, guesses, correct) -> mu, epsilon at delta 1e-5
GAUSSIAN = {
    (1000, 1000, 1000): (2.36807, 12.33457),
    (1000, 100, 75): (0.26949, 1.00592),
    (1000, 100, 100): (1.22553, 5.54903),
    (1000, 1000, 600): (0.16385, 0.58354),
    (1000, 1000, 750): (0.46063, 1.81890),
    (100_000, 1510, 1439): (0.78386, 3.30908),
    (10_000, 10_000, 10_000): (2.92110, 16.11103),
    (100, 100, 100): (1.70316, 8.21619),
    (2000, 200, 180): (0.64614, 2.65779),
}
# (canaries, mu, guesses) -> epsilon at delta 1e-5 at the expected count: gaussian, steinke
PLANS = {
    (1000, 1, 50): (2.178, 1.550),
    (1000, 1, 100): (2.456, 1.626),
    (1000, 1, 200): (2.418, 1.505),
    (1000, 1, 500): (1.997, 1.151),
    (1000, 1, 1000): (1.297, 0.690),
    (1000, 2, 100): (4.727, 3.003),
    (1000, 2, 300): (5.502, 3.196),
    (200, 1, 60): (1.799, 1.012),
    (5000, 1, 250): (2.865, 2.082),
}


@pytest.mark.parametrize("case", STEINKE)
def test_steinke_values(case: tuple[int, int, int, float]) -> None:
    m, r, v, delta = case
    digits = 1e-6 if round(STEINKE[case], 5) != STEINKE[case] else 5e-6
    bound = steinke(canaries=m, guesses=r, correct=v, delta=delta)
    assert bound.epsilon == pytest.approx(STEINKE[case], abs=digits)
    assert bound.low == bound.epsilon
    assert bound.mu is None
    assert bound.counts == {"canaries": m, "guesses": r, "correct": v}


@pytest.mark.parametrize("m", CEILINGS)
def test_steinke_ceilings_fall_again(m: int) -> None:
    bound = steinke(canaries=m, guesses=m, correct=0, delta=1e-5)
    assert bound.ceiling == pytest.approx(CEILINGS[m], abs=5.1e-4)
    assert bound.epsilon == 0


def test_steinke_has_a_closed_form_when_all_is_right() -> None:
    for r, alpha in [(10, 0.05), (1000, 0.05), (77, 0.01)]:
        bound = steinke(canaries=r, guesses=r, correct=r, delta=0, alpha=alpha)
        assert bound.epsilon == pytest.approx(-math.log(alpha ** (-1 / r) - 1), abs=1e-8)


@pytest.mark.parametrize("case", [(40, 30, 25, 1e-2), (1000, 100, 75, 1e-4), (20, 20, 1, 0.0)])
def test_steinke_p_value_against_the_sum_over_the_binomial(
    case: tuple[int, int, int, float],
) -> None:
    m, r, v, delta = case
    p_value = _steinke_p_value(m, r, v, delta)
    for epsilon in (0.0, 0.3, 1.0, 3.0):
        q = 1 / (1 + math.exp(-epsilon))
        mass, steepest = 0.0, 0.0
        for i in range(1, v + 1):
            mass += binom.pmf(v - i, r, q)
            steepest = max(steepest, mass / i)
        slow = min(1.0, binom.sf(v - 1, r, q) + 2 * m * delta * steepest)
        assert p_value(epsilon) == pytest.approx(slow, rel=1e-8)


@pytest.mark.parametrize("case", GAUSSIAN)
def test_gaussian_values(case: tuple[int, int, int]) -> None:
    m, r, v = case
    bound = gaussian_one_run(canaries=m, guesses=r, correct=v, delta=1e-5)
    assert bound.mu == pytest.approx(GAUSSIAN[case][0], abs=6e-6)
    assert bound.epsilon == pytest.approx(GAUSSIAN[case][1], abs=1e-5)


@pytest.mark.parametrize("case", [(1000, 100, 75), (100, 100, 100), (50, 20, 18), (50, 20, 0)])
def test_gaussian_rejection_against_the_whole_recursion(case: tuple[int, int, int]) -> None:
    m, r, v = case
    for mu in (0.01, 0.1, 0.3, 1.0, 1.2, 1.7, 2.0):

        def shrunk(x: float, shift: float = mu) -> float:
            return float(ndtr(ndtri(x) - shift))

        h, g = 0.05 * (r - v) / m, 0.05 * v / m
        for i in range(v - 1, -1, -1):  # neither early stop
            new = max(h, norm.cdf(norm.ppf(min(g, 1.0)) - mu))
            g += i / (r - i) * (new - h)
            h = new
        assert rejects(shrunk, m, r, v, 0.05) == (g + h > r / m)


@pytest.mark.parametrize("plan", PLANS)
def test_plans(plan: tuple[int, float, int]) -> None:
    m, mu, r = plan
    v = int(expected_correct(m, r, mu))
    counts = {"canaries": m, "guesses": r, "correct": v}
    assert gaussian_one_run(**counts, delta=1e-5).epsilon == pytest.approx(
        PLANS[plan][0], abs=5.1e-4
    )
    assert steinke(**counts, delta=1e-5).epsilon == pytest.approx(PLANS[plan][1], abs=5.1e-4)


def test_the_design_that_can_never_contradict_a_claim() -> None:
    assert steinke(canaries=1000, guesses=200, correct=200, delta=1e-5).ceiling < epsilon_of(
        1, 1e-5
    )


def test_default_guesses() -> None:
    assert [default_guesses(m) for m in (1, 30, 999, 1000, 5000)] == [1, 10, 333, 100, 500]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.0, 1e-5, 1e-2]), st.data())
def test_bounds_grow_with_right_guesses_up_to_the_ceiling(
    r: int, delta: float, data: st.DataObject
) -> None:
    v = data.draw(st.integers(0, r - 1))
    m = data.draw(st.integers(r, 100))
    for method in (steinke, gaussian_one_run):
        less, more = (
            method(canaries=m, guesses=r, correct=right, delta=delta) for right in (v, v + 1)
        )
        assert 0 <= less.epsilon <= more.epsilon + 1e-9
        assert more.epsilon <= more.ceiling + 1e-9


def test_hits_in_one_run() -> None:
    def epsilon(hits: int, canaries: int, bits: float) -> float:
        return hits_one_run(hits=hits, canaries=canaries, bits=bits).epsilon

    assert epsilon(75, 100, 1) == pytest.approx(0.702214, abs=1e-6)
    assert epsilon(100, 100, math.log2(1001)) == pytest.approx(10.400721, abs=1e-6)
    assert epsilon(30, 100, 8) == pytest.approx(4.304061, abs=1e-6)
    assert epsilon(1, 100, 8) == 0


def test_hits_in_one_run_are_tight_for_randomized_response() -> None:
    k, epsilon, n = 1001, 8.0, 100
    accuracy = math.exp(epsilon) / (k - 1 + math.exp(epsilon))
    assert accuracy == pytest.approx(0.748804, abs=1e-6)
    # P[bound > epsilon], exactly: just below alpha, because hits are whole numbers.
    false = sum(
        binom.pmf(hits, n, accuracy)
        for hits in range(n + 1)
        if hits_one_run(hits=hits, canaries=n, bits=math.log2(k)).epsilon > epsilon
    )
    assert 0.03 < false <= 0.05


def correct_guesses(m: int, r: int, mu: float, trials: int) -> list[int]:
    """Right guesses in simulated audits: Gaussian scores, r/2 guesses from either end."""
    rng = np.random.default_rng(20)
    inside = rng.random((trials, m)) < 0.5
    order = np.argsort(rng.standard_normal((trials, m)) + mu * inside, axis=1)
    sorted_coins = np.take_along_axis(inside, order, axis=1)
    right = (~sorted_coins[:, : r // 2]).sum(1) + sorted_coins[:, m - r // 2 :].sum(1)
    return [int(v) for v in right]


def check_coverage(mu: float, trials: int) -> None:
    m, r, delta = 300, 100, 1e-5
    one = cache(lambda v: steinke(canaries=m, guesses=r, correct=v, delta=delta).epsilon)
    two = cache(lambda v: gaussian_one_run(canaries=m, guesses=r, correct=v, delta=delta).mu)
    counts = correct_guesses(m, r, mu, trials)
    for over in (
        sum(one(v) > epsilon_of(mu, delta) for v in counts),
        sum(two(v) > mu for v in counts),
    ):
        assert wilson(over, trials, 0.01)[0] <= 0.05


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_coverage(mu: float) -> None:
    check_coverage(mu, 300)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_coverage_over_many_audits(mu: float) -> None:
    check_coverage(mu, 2000)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0])
def test_steinke_is_tight_for_randomized_response(epsilon: float) -> None:
    m = 1000
    q = 1 / (1 + math.exp(-epsilon))
    first = next(
        v
        for v in range(int(m * q), m + 1)
        if steinke(canaries=m, guesses=m, correct=v, delta=0).epsilon > epsilon
    )
    assert 0.02 < binom.sf(first - 1, m, q) <= 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        {"correct": 11},
        {"correct": -1},
        {"correct": 2.5},
        {"correct": math.nan},
        {"guesses": 21},
        {"canaries": 0, "guesses": 0, "correct": 0},
        {"delta": 1.0},
        {"delta": -1e-9},
        {"delta": math.nan},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": math.nan},
    ],
)
def test_impossible_arguments(wrong: dict[str, float]) -> None:
    arguments = {"canaries": 20, "guesses": 10, "correct": 8, "delta": 1e-5, "alpha": 0.05, **wrong}
    for method in (steinke, gaussian_one_run):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*expected"):
            method(**arguments)


@pytest.mark.parametrize(
    "counts", [(10**5, 10**5), (10**5, 75_000), (10**5, 50_500), (10**4, 7500)]
)
def test_bounds_for_many_canaries_take_less_than_a_second(counts: tuple[int, int]) -> None:
    r, v = counts
    for method in (steinke, gaussian_one_run):
        begun = time.process_time()
        assert method(canaries=10**5, guesses=r, correct=v, delta=1e-5).epsilon > 0
        assert time.process_time() - begun < 1  # .15 seconds where nothing else runs


def test_no_guess_says_nothing() -> None:
    for method in (steinke, gaussian_one_run):
        bound = method(canaries=10, guesses=0, correct=0, delta=1e-5)
        assert (bound.epsilon, bound.ceiling, bound.valid) == (0, 0, False)
        assert "more guesses" in bound.reasons[0]
