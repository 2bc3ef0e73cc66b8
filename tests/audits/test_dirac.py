"""Scores of Dirac canaries: the likelihood ratio, and the threshold that is declared for it."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import norm

from audits.claimed_curve import rejects_claim
from audits.dirac import log_ratio, plan, scores
from audits.gaussian_dp import mu_of
from audits.intervals import wilson


def by_hand(column: NDArray[np.float64], q: float, sigma: float) -> float:
    inside = q * norm.pdf(column, 1, sigma) + (1 - q) * norm.pdf(column, 0, sigma)
    return float(np.log(inside / norm.pdf(column, 0, sigma)).sum())


@pytest.mark.parametrize("q", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_it_is_the_ratio_of_the_two_densities(q: float, sigma: float) -> None:
    observed = np.random.default_rng(0).normal(size=(7, 5))
    expected = [by_hand(observed[:, i], q, sigma) for i in range(5)]
    assert log_ratio(observed, q, sigma) == pytest.approx(expected, abs=1e-9)


def test_observations_far_outside_neither_overflow_nor_wash_out() -> None:
    scores = log_ratio(np.array([[1e6, -1e6, 0.5]]), 0.1, 0.1)
    assert scores[0] == pytest.approx(1e8, rel=1e-3)
    assert scores[1] == pytest.approx(math.log(0.9))
    assert scores[2] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("observed", "q", "sigma", "told"),
    [
        (np.zeros((2, 3)), 0.0, 1.0, "rate is 0.0"),
        (np.zeros((2, 3)), 1.5, 1.0, "rate is 1.5"),
        (np.zeros((2, 3)), 0.5, 0.0, "without noise there is no claim"),
        (np.zeros(3), 0.5, 1.0, r"shape \(3,\)"),
        (np.zeros((0, 3)), 0.5, 1.0, r"shape \(0, 3\)"),
        (np.array([[np.nan]]), 0.5, 1.0, "1 NaN"),
    ],
)
def test_what_is_no_observation_is_refused(
    observed: NDArray[np.float64], q: float, sigma: float, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        log_ratio(observed, q, sigma)


@pytest.mark.parametrize(("steps", "sigma"), [(16, 4.0), (4, 1.0)])
def test_without_sampling_the_planned_rates_are_the_gaussians(steps: int, sigma: float) -> None:
    """The log ratio is then N(+-mu^2 / 2, mu^2), mu = sqrt(T) / sigma."""
    mu = math.sqrt(steps) / sigma
    planned = plan(canaries=1000, rate=1.0, steps=steps, noise_multiplier=sigma, alpha=0.05)
    assert planned.fpr == pytest.approx(ndtr(-mu / 2 - planned.threshold / mu), abs=0.02)
    assert planned.tpr == pytest.approx(ndtr(mu / 2 - planned.threshold / mu), abs=0.02)


def test_the_plan_is_the_same_every_time() -> None:
    first, second = (
        plan(canaries=200, rate=0.1, steps=50, noise_multiplier=1.0, alpha=0.05) for _ in range(2)
    )
    assert first == second


def test_no_other_score_does_better_against_the_claimed_mechanism() -> None:
    """Neyman and Pearson: with rare draws the sum of all observations loses most of them."""
    q, steps, sigma, n = 0.02, 100, 0.5, 4000
    rng = np.random.default_rng(1)
    out = sigma * rng.standard_normal((steps, n))
    into = rng.binomial(1, q, (steps, n)) + sigma * rng.standard_normal((steps, n))

    def power(score_in: NDArray[np.float64], score_out: NDArray[np.float64]) -> float:
        return float((score_in > np.quantile(score_out, 0.99)).mean())

    best = power(log_ratio(into, q, sigma), log_ratio(out, q, sigma))
    assert best > 2 * power(into.sum(0), out.sum(0))
    assert best > power(into.max(0), out.max(0))


def test_the_planned_threshold_is_about_as_good_as_any() -> None:
    """At q = 1 the best a threshold can do is known: the bound on mu where the limits are least."""
    from audits.bounds import gaussian

    mu, half = 2.0, 500
    planned = plan(canaries=2 * half, rate=1.0, steps=4, noise_multiplier=1.0, alpha=0.05)

    def bound(threshold: float) -> float:
        tp = round(half * float(ndtr(mu / 2 - threshold / mu)))
        fp = round(half * float(ndtr(-mu / 2 - threshold / mu)))
        return float(
            gaussian(tp=tp, fp=fp, n_in=half, n_out=half, delta=1e-5, alpha=0.05).mu or 0.0
        )

    best = max(bound(float(t)) for t in np.linspace(-8, 8, 321))
    assert bound(planned.threshold) > 0.97 * best
    assert best < mu
    assert mu_of(10.0, 1e-5) == pytest.approx(2.0, abs=1e-3)


def audits_of(
    rate: float, steps: int, claimed: float, real: float, n: int
) -> list[NDArray[np.int64]]:
    """Counts (tp, fp, n_in, n_out) of n audits of a mechanism with less noise than it claims."""
    found = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        coins = rng.integers(0, 2, 400) == 1
        drawn = coins & (rng.random((steps, 400)) < rate)
        observed = drawn + real * rng.standard_normal((steps, 400))
        beside = real * rng.standard_normal((steps, 100))
        above = scores(observed, beside, rate=rate, noise_multiplier=claimed, alpha=0.05) > 0
        found.append(
            np.array([(above & coins).sum(), (above & ~coins).sum(), coins.sum(), (~coins).sum()])
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "steps", "sigma"), [(1.0, 16, 4.0), (0.1, 20, 1.0)])
def test_a_mechanism_that_is_as_claimed_is_seldom_contradicted(
    rate: float, steps: int, sigma: float
) -> None:
    """The score looks at the noise of the run, and must not spoil the level by it."""
    n, wrong = 200, 0
    for tp, fp, n_in, n_out in audits_of(rate, steps, sigma, sigma, n):
        wrong += rejects_claim(
            tp=int(tp),
            fp=int(fp),
            n_in=int(n_in),
            n_out=int(n_out),
            rate=rate,
            steps=steps,
            noise_multiplier=sigma,
            alpha=0.05,
        )
    low, _ = wilson(wrong, n, 0.01)
    assert low <= 0.05


@pytest.mark.parametrize("share", [0.5, 0.1, 1e-3, 0.0])
def test_noise_that_is_too_small_is_seen_however_small(share: float) -> None:
    """A ratio at the claimed noise gives up where the noise is a tenth of it: see `scores`."""
    for tp, fp, n_in, n_out in audits_of(0.1, 40, 1.0, share, 3):
        assert rejects_claim(
            tp=int(tp),
            fp=int(fp),
            n_in=int(n_in),
            n_out=int(n_out),
            rate=0.1,
            steps=40,
            noise_multiplier=1.0,
            alpha=0.05,
        )


@pytest.mark.parametrize("beside", [np.zeros((2, 0)), np.zeros(2), np.array([[np.nan]])])
def test_noise_that_cannot_be_measured_is_refused(beside: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="no canary owns"):
        scores(np.zeros((2, 3)), beside, rate=0.5, noise_multiplier=1.0, alpha=0.05)


def test_a_canary_is_in_where_its_ratio_is_above_the_best_threshold() -> None:
    rng = np.random.default_rng(0)
    observed, beside = rng.standard_normal((30, 50)), rng.standard_normal((30, 100))
    seen = float(np.sqrt((beside**2).mean()))
    best = plan(canaries=50, rate=0.1, steps=30, noise_multiplier=seen, alpha=0.05).threshold
    found = scores(observed, beside, rate=0.1, noise_multiplier=2.0, alpha=0.05)
    assert best != 0
    assert ((found > 0) == (log_ratio(observed, 0.1, seen) > best)).all()
