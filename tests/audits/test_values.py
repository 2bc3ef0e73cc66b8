"""Numbers that follow from the papers' formulas, and regressions of other tools on known data."""

import math

import numpy as np
import pytest
from scipy.stats import beta, norm

from audits.bounds import (
    clopper_pearson,
    expected_correct,
    gaussian,
    gaussian_one_run,
    known_null,
    rejects_claim,
    steinke,
)
from audits.gaussian_dp import epsilon_of, epsilon_of_two_gaussians, mu_of
from audits.gaussian_scores import cosine_false_alarms, moments
from audits.trade_off import epsilon_of_claim


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "printed"),
    [
        (100, 100, 75, 0, 0.702),
        (100, 100, 75, 1e-4, 0.699),
        (1000, 100, 75, 1e-4, 0.673),
        (100_000, 1510, 1439, 1e-5, 2.675),
    ],
)
def test_what_steinke_et_al_print(
    canaries: int, guesses: int, correct: int, delta: float, printed: float
) -> None:
    bound = steinke(canaries=canaries, guesses=guesses, correct=correct, delta=delta)
    assert bound.epsilon == pytest.approx(printed, abs=1e-3)


def test_guesses_from_the_ends_of_deterministic_normals() -> None:
    """The tails of 1,000 quantiles each of N(1, 1) and N(0, 1): 200 guesses, 180 are right."""
    quantiles = norm.ppf((np.arange(1000) + 0.5) / 1000)
    scores, inside = np.concatenate([quantiles + 1, quantiles]), np.arange(2000) < 1000
    order = np.argsort(scores)
    right = int((~inside[order[:100]]).sum() + inside[order[-100:]].sum())
    assert right == 180
    one = {"canaries": 2000, "guesses": 200, "correct": right, "delta": 1e-5}
    assert steinke(**one).epsilon == pytest.approx(1.79368, abs=6e-6)
    assert gaussian_one_run(**one).mu == pytest.approx(0.64614, abs=6e-6)
    assert gaussian_one_run(**one).epsilon == pytest.approx(2.65779, abs=6e-6)


def test_what_independent_canaries_are_worth() -> None:
    """One run of 1,000 canaries at mu = 1, at its expected counts: independence is worth most."""
    hits = round(500 * norm.cdf(0.5))
    many = {"tp": hits, "fp": 500 - hits, "n_in": 500, "n_out": 500, "delta": 1e-5}
    assert gaussian(**many).epsilon == pytest.approx(3.23, abs=0.02)
    designs = [
        {"canaries": 1000, "guesses": r, "correct": int(expected_correct(1000, r, 1))}
        for r in range(60, 200, 20)
    ]
    best, plain = (
        max(method(**it, delta=1e-5).epsilon for it in designs)
        for method in (gaussian_one_run, steinke)
    )
    assert best == pytest.approx(2.50, abs=0.03)
    assert plain == pytest.approx(1.65, abs=0.03)


def test_the_classical_noise_is_too_much() -> None:
    assert math.sqrt(2 * math.log(1.25e5)) == pytest.approx(4.84481, abs=1e-5)
    assert 1 / mu_of(1, 1e-5) == pytest.approx(3.73063, abs=1e-5)


def test_the_central_limit_is_no_claim() -> None:
    """q = .01, 1,000 steps, sigma 1: mu from the limit says 1.618, and accounting 1.829."""
    mu = 0.01 * math.sqrt(1000 * math.expm1(1))
    assert mu == pytest.approx(0.414522, abs=1e-6)
    assert epsilon_of(mu, 1e-5) == pytest.approx(1.61771, abs=1e-5)
    assert epsilon_of_claim(0.01, 1000, 1.0, 1e-5) == pytest.approx(1.82893, abs=2e-3)


def test_one_coordinate_of_many_steps_is_one_gaussian() -> None:
    """Sums over T steps of C + N(0, (sigma C)^2) against noise alone: mu = sqrt(T) / sigma."""
    steps, sigma, bound, n = 16, 4.0, 0.5, 200_000
    rng = np.random.default_rng(50)
    noise = sigma * bound * rng.standard_normal((2, n, steps)).sum(2)
    inside, outside = noise[0] + steps * bound, noise[1]
    found = moments(inside, outside)
    assert found.mu == pytest.approx(math.sqrt(steps) / sigma, abs=5 * found.error)
    attack = {"tp": int((inside >= 4).sum()), "fp": int((outside >= 4).sum())}
    many = {**attack, "n_in": n, "n_out": n, "rate": 1.0, "steps": steps}
    assert not rejects_claim(**many, noise_multiplier=sigma)
    assert rejects_claim(**many, noise_multiplier=1.05 * sigma)


def jeffreys(k: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """The upper limit that the regressions below take, instead of Clopper and Pearson's."""
    return beta.ppf(1 - alpha, 0.5 + k, 0.5 + n - k)


def best_epsilon(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> float:
    with np.errstate(invalid="ignore"):
        one, other = np.log((1 - delta - fnr) / fpr), np.log((1 - delta - fpr) / fnr)
    return float(np.nanmax([one, other]))


@pytest.mark.parametrize(("dimension", "expected"), [(200, 1.394838), (2000, 1.3880321)])
def test_regression_of_random_canaries(dimension: int, expected: float) -> None:
    """Andrew et al. 2023: Jeffreys limits at the best of all thresholds, analytic null."""
    rng = np.random.default_rng(seed=0xBAD5EED)
    cosines = np.sort(rng.normal(dimension**-0.5, dimension**-0.5, 100))
    fnr = jeffreys(np.arange(100), 100, 0.01)
    found = best_epsilon(cosine_false_alarms(cosines, dimension), fnr, 0.01)
    # From 1,000 dimensions on they take the Gaussian instead of the exact null.
    assert found == pytest.approx(expected, abs=1e-6 if dimension < 1000 else 1e-3)
    null = norm.sf(cosines, scale=dimension**-0.5)
    assert best_epsilon(null, fnr, 0.01) == pytest.approx(
        expected, abs=5e-2 if dimension < 1000 else 1e-6
    )
    # What may be claimed is less: one threshold, fixed before, and exact limits.
    hits = int((cosines >= 2 * dimension**-0.5).sum())
    fpr = float(cosine_false_alarms(2 * dimension**-0.5, dimension))
    assert known_null(tp=hits, n_in=100, fpr=fpr, delta=0.01, alpha=0.01).epsilon < found


def test_regression_of_two_samples() -> None:
    rng = np.random.default_rng(seed=0xBAD5EED)
    seen, unseen = np.sort(rng.normal(1, 1, 100)), np.sort(rng.normal(0, 1, 100))
    t = np.concatenate([seen, unseen, [np.inf]])
    fnr = jeffreys(np.searchsorted(seen, t), 100, 0.01)
    fpr = jeffreys(100 - np.searchsorted(unseen, t), 100, 0.01)
    assert best_epsilon(fpr, fnr, 0.01) == pytest.approx(0.6839449, abs=1e-6)
    # A threshold that was declared.
    many = {"tp": int((seen >= 0.5).sum()), "fp": int((unseen >= 0.5).sum())}
    declared = clopper_pearson(**many, n_in=100, n_out=100, delta=0.01, alpha=0.02)
    assert 0 < declared.epsilon < 0.6839449


def test_regression_of_a_gaussian_alternative() -> None:
    """The seen cosines' mean and deviation against the analytic null: 200 and 2,000 dimensions."""
    assert epsilon_of_two_gaussians(2000**-0.5, 2000**-0.5, 0, 2000**-0.5, 1e-2) == pytest.approx(
        2.317789, abs=1e-6
    )
    scale = 200**-0.5
    t = np.linspace(-0.15, 0.25, 10_000)
    found = best_epsilon(cosine_false_alarms(t, 200), norm.cdf(t, scale, scale), 1e-2)
    assert found == pytest.approx(2.375326, abs=1e-4)
