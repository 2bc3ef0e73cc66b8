import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from audits.gaussian_dp import epsilon_of
from audits.trade_off import curve, epsilon_of_claim, ever_drawn, trade_off, vanishing_noise

RATES = [1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999]


def exact_single_step(rate: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The best tests of one step, in both directions: false alarms and misses of each."""
    t = np.linspace(-12, 12, 20_001)
    alarms = norm.sf(t)
    misses = (1 - rate) * norm.cdf(t) + rate * norm.cdf(t - 1 / sigma)
    return np.concatenate([alarms, misses]), np.concatenate([misses, alarms])


@pytest.mark.parametrize(("rate", "sigma"), [(0.01, 0.5), (0.2, 1.0), (0.9, 0.7), (0.5, 3.0)])
def test_one_step_is_bounded_by_the_lower_of_both_directions(rate: float, sigma: float) -> None:
    claimed = trade_off(rate, 1, sigma)
    alarms, misses = exact_single_step(rate, sigma)
    bounds = np.array([claimed(x) for x in alarms])
    assert (bounds <= misses + 1e-15).all()
    # The largest convex function below both: within rounding of the largest line below them.
    # The largest convex function below both: the largest of many lines below them.
    for x in (0.01, 0.1, 0.4, 0.8):
        slopes = np.exp(np.linspace(-10, 10, 2001))
        hull = max((misses + slope * alarms).min() - slope * x for slope in slopes)
        assert hull - 1e-3 <= claimed(x) <= hull + 1e-4


@pytest.mark.parametrize(("steps", "sigma"), [(1, 1.0), (16, 4.0), (1000, 20.0), (1, 0.2)])
def test_without_subsampling_the_curve_is_gaussian(steps: int, sigma: float) -> None:
    mu, claimed = math.sqrt(steps) / sigma, trade_off(1.0, steps, sigma)
    for x in RATES:
        exact = norm.cdf(norm.isf(x) - mu)
        assert exact - 1e-3 <= claimed(x) < exact


def log_ratios(rate: float, steps: int, sigma: float, inside: bool, n: int) -> np.ndarray:
    """The best attack on T observations each, of a coordinate that only one record moves."""
    rng = np.random.default_rng(41 + inside)
    total = np.zeros(n)
    for _ in range(steps):
        x = sigma * rng.standard_normal(n)
        if inside:
            x += rng.random(n) < rate
        total += np.log1p(rate * np.expm1((2 * x - 1) / (2 * sigma**2)))
    return total


@pytest.mark.parametrize(("rate", "steps", "sigma"), [(0.2, 30, 1.0), (0.02, 50, 0.5)])
def test_the_best_attack_reaches_the_curve_and_stays_above(
    rate: float, steps: int, sigma: float
) -> None:
    n = 200_000
    inside, outside = (log_ratios(rate, steps, sigma, it, n) for it in (True, False))
    claimed = trade_off(rate, steps, sigma)
    reached = []
    for t in np.quantile(outside, np.linspace(0.01, 0.999, 25)):
        alarms, misses = float((outside >= t).mean()), float((inside < t).mean())
        for one, other in ((alarms, misses), (misses, alarms)):
            # Five standard errors of both rates together.
            slope = (claimed(max(one - 1e-3, 0)) - claimed(min(one + 1e-3, 1))) / 2e-3
            noise = 5 * math.sqrt((slope**2 * one * (1 - one) + other * (1 - other)) / n)
            assert other >= claimed(one) - noise
            reached.append((other - claimed(one)) - noise)
    assert min(reached) < 1e-3


@given(st.floats(0, 1), st.sampled_from([(0.1, 20, 1.0), (1.0, 4, 2.0), (0.01, 500, 0.8)]))
@settings(max_examples=60, deadline=None)
def test_the_curve_is_the_largest_of_its_lines(x: float, claim: tuple[float, int, float]) -> None:
    claimed = trade_off(*claim)
    factors, deltas = np.array(claimed.factors), np.array(claimed.deltas)
    steep, flat = 1 - deltas - factors * x, (1 - deltas - x) / factors
    assert claimed(x) == pytest.approx(max(0.0, steep.max(), flat.max()), rel=1e-9, abs=1e-12)
    if 1e-3 < x < 0.99:
        assert claimed(claimed(x)) == pytest.approx(x, abs=1e-9)  # symmetric


def test_every_line_is_private() -> None:
    # (epsilon, delta)-DP alone gives its two lines: Dong, Roth and Su 2019, figure 2.
    one = curve(np.array([0.0, 1.0]), np.array([0.2, 0.1]))
    assert one(0.0) == pytest.approx(0.9)
    assert one(0.02) == pytest.approx(0.9 - 0.02 * math.e)
    assert one(0.3) == pytest.approx(0.5)
    assert one(0.8) == pytest.approx(0.1 / math.e)
    assert one(1.0) == 0


def test_more_noise_is_a_higher_curve() -> None:
    for rate, steps in ((0.1, 50), (1.0, 9)):
        curves = [trade_off(rate, steps, sigma) for sigma in (0.3, 0.6, 1.2, 5.0, 50.0)]
        for x in RATES[2:]:
            values = [it(x) for it in curves]
            assert values == sorted(values)
            assert vanishing_noise(rate, steps)(x) <= values[0] + 1e-3
            assert values[-1] <= 1 - x


def test_without_noise_a_record_is_seen_when_it_takes_part() -> None:
    assert vanishing_noise(0.1, 10)(0.0) == pytest.approx(0.9**10)
    assert vanishing_noise(0.1, 10)(0.2) == pytest.approx(0.9**10 - 0.2)
    assert vanishing_noise(1.0, 1)(0.0) == 0
    assert trade_off(0.1, 10, 0.02)(0.01) == pytest.approx(0.9**10 - 0.01, abs=1e-3)


@pytest.mark.parametrize(
    "claim", [(0.01, 1000, 1.0), (0.1, 100, 2.0), (1.0, 16, 4.0), (0.001, 10_000, 0.6)]
)
def test_epsilon_of_a_claim_is_just_below_accounting(claim: tuple[float, int, float]) -> None:
    rate, steps, sigma = claim
    fine = from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=1e-4
    ).self_compose(steps)
    found, known = epsilon_of_claim(*claim, 1e-5), fine.get_epsilon_for_delta(1e-5)
    assert 0.997 * known < found < known
    assert epsilon_of_claim(*claim, 0.0) == math.inf


def test_epsilon_of_a_claim_without_subsampling() -> None:
    for delta in (1e-6, 1e-3):
        assert epsilon_of_claim(1.0, 1, 1.0, delta) == pytest.approx(epsilon_of(1, delta), rel=2e-3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((0.0, 1, 1.0), "rate is 0.0"),
        ((1.1, 1, 1.0), "rate is 1.1"),
        ((math.nan, 1, 1.0), "rate is nan"),
        ((0.5, 0, 1.0), "steps is 0"),
        ((0.5, 1.5, 1.0), "steps is 1.5"),
        ((0.5, 1, 0.0), "sigma is 0.0"),
        ((0.5, 1, math.inf), "sigma is inf"),
        ((0.5, 1, math.nan), "sigma is nan"),
    ],
)
def test_impossible_claims(wrong: tuple[float, int, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trade_off(*wrong)
    with pytest.raises(ValueError, match=said):
        epsilon_of_claim(*wrong, 1e-5)


def test_tiny_deltas_are_refused_with_sampling_and_exact_without() -> None:
    exact = epsilon_of(1.0, 1e-15)
    assert epsilon_of_claim(1.0, 16, 4.0, 1e-15) == pytest.approx(exact, abs=1e-9)
    with pytest.raises(ValueError, match="cut off"):
        epsilon_of_claim(0.1, 16, 4.0, 1e-13)


def test_noise_too_small_for_any_grid_gives_what_more_noise_would() -> None:
    found = epsilon_of_claim(0.5, 1000, 0.152, 1e-5)
    assert math.isfinite(found)
    assert 0 < found <= 11726  # a finer grid's
    assert found >= epsilon_of_claim(0.5, 1000, 0.4, 1e-5)


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 5), (0.3, 1), (0.01, 40)])
def test_ever_drawn(rate: float, steps: int) -> None:
    assert ever_drawn(rate, steps) == pytest.approx(1 - (1 - rate) ** steps)
