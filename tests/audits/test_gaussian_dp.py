import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from audits.gaussian_dp import delta_of, epsilon_of, epsilon_of_two_gaussians, mu_of

# mu -> epsilon at delta 1e-5 and at 1e-6
ANALYTIC = {
    0.1: (0.340669, 0.396857),
    0.25: (0.926342, 1.060702),
    0.5: (1.993091, 2.254085),
    1: (4.377178, 4.886554),
    2: (9.997256, 10.997151),
    4: (24.381611, 26.356964),
}


@pytest.mark.parametrize("mu", ANALYTIC)
def test_epsilon_of_known_shifts(mu: float) -> None:
    assert epsilon_of(mu, 1e-5) == pytest.approx(ANALYTIC[mu][0], abs=1e-6)
    assert epsilon_of(mu, 1e-6) == pytest.approx(ANALYTIC[mu][1], abs=1e-6)


def test_epsilon_at_large_deltas_and_of_the_subsampled_limit() -> None:
    assert epsilon_of(1, 1e-2) == pytest.approx(2.317789, abs=1e-6)
    assert epsilon_of(1, 1e-3) == pytest.approx(3.138671, abs=1e-6)
    clt = 0.01 * math.sqrt(1000 * math.expm1(1))
    assert clt == pytest.approx(0.414522, abs=1e-6)
    assert epsilon_of(clt, 1e-5) == pytest.approx(1.61771, abs=1e-5)


def test_the_noise_for_epsilon_one() -> None:
    assert 1 / mu_of(1, 1e-5) == pytest.approx(3.73063, abs=1e-5)


@given(st.floats(1e-3, 50), st.floats(-30, -0.5))
def test_the_three_conversions_invert_each_other(mu: float, log_delta: float) -> None:
    delta = math.exp(log_delta)
    epsilon = epsilon_of(mu, delta)
    if epsilon == 0:
        assert delta_of(0, mu) <= delta * (1 + 1e-9)
    else:
        assert delta_of(epsilon, mu) == pytest.approx(delta, rel=1e-6)
        assert mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-6)


def test_delta_is_the_hockey_stick_divergence() -> None:
    for epsilon, mu in [(0.0, 0.3), (1.0, 1.0), (3.0, 0.7), (-0.5, 1.0)]:

        def gap(x: float, e: float = epsilon, m: float = mu) -> float:
            return max(0.0, norm.pdf(x, m) - math.exp(e) * norm.pdf(x))

        numeric = quad(gap, -12, 14, points=[epsilon / mu + mu / 2], limit=200)[0]
        assert delta_of(epsilon, mu) == pytest.approx(numeric, rel=1e-6)


def test_far_tails_stay_finite() -> None:
    assert 8000 < epsilon_of(100, 1e-300) < 9000
    assert epsilon_of(1e3, 1e-5) > 5e5
    assert epsilon_of(1e-6, 1e-5) == 0
    assert delta_of(700, 1) == 0


def test_edges() -> None:
    assert epsilon_of(0, 0) == epsilon_of(0, 1e-5) == 0
    assert epsilon_of(1, 0) == epsilon_of(math.inf, 1e-5) == math.inf
    assert mu_of(3, 0) == 0
    assert mu_of(math.inf, 1e-5) == math.inf
    assert delta_of(0, mu_of(0, 0.1)) == pytest.approx(0.1)
    assert delta_of(-1, 0) == pytest.approx(1 - math.exp(-1))
    assert delta_of(1, 0) == 0


def test_two_gaussians_of_known_epsilon() -> None:
    assert epsilon_of_two_gaussians(0, 1, 1, 1, 1e-5) == pytest.approx(4.377178, abs=1e-6)
    assert epsilon_of_two_gaussians(7, 3, 1, 3, 1e-5) == pytest.approx(9.997256, abs=1e-6)
    assert epsilon_of_two_gaussians(0.02, 0.015, 0, 0.01, 1e-5) == pytest.approx(
        24.955564, abs=1e-6
    )
    assert epsilon_of_two_gaussians(3, 2, 3, 2, 1e-5) == 0


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 1.3), (0.7, 1.3), (-1.0, 0.6), (2.0, 1 + 1e-9), (0.5, 0.999)]
)
def test_two_gaussians_against_integration(mean: float, std: float) -> None:
    delta = 1e-3
    epsilon = epsilon_of_two_gaussians(mean, std, 0, 1, delta)

    def divergence(p: tuple[float, float], q: tuple[float, float]) -> float:
        return quad(
            lambda x: max(0.0, norm.pdf(x, *p) - math.exp(epsilon) * norm.pdf(x, *q)),
            -15, 15, limit=2000, epsabs=1e-12,
        )[0]  # fmt: skip

    inside, outside = (mean, std), (0.0, 1.0)
    worst = max(divergence(inside, outside), divergence(outside, inside))
    assert worst == pytest.approx(delta, rel=1e-4)


@given(st.floats(-3, 3), st.floats(0.2, 5), st.floats(0.2, 5))
def test_two_gaussians_are_symmetric_and_scale_free(mean: float, one: float, two: float) -> None:
    epsilon = epsilon_of_two_gaussians(mean, one, 0, two, 1e-5)
    assert epsilon == pytest.approx(epsilon_of_two_gaussians(0, two, mean, one, 1e-5), abs=1e-8)
    scaled = epsilon_of_two_gaussians(5 + 7 * mean, 7 * one, 5, 7 * two, 1e-5)
    assert epsilon == pytest.approx(scaled, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: epsilon_of(-1, 1e-5), "mu is -1"),
        (lambda: epsilon_of(math.nan, 1e-5), "mu is nan"),
        (lambda: epsilon_of(1, 1.0), "delta is 1.0"),
        (lambda: epsilon_of(1, math.nan), "delta is nan"),
        (lambda: mu_of(-0.1, 1e-5), "epsilon is -0.1"),
        (lambda: mu_of(math.nan, 1e-5), "epsilon is nan"),
        (lambda: delta_of(math.nan, 1), "epsilon is nan"),
        (lambda: epsilon_of_two_gaussians(0, 0, 0, 1, 1e-5), "std_in is 0"),
        (lambda: epsilon_of_two_gaussians(0, 1, math.inf, 1, 1e-5), "mean_out is inf"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
