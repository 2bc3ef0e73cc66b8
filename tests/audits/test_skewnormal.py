import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import kstwo, skewnorm

from audits.skewnormal import (
    SkewNormal,
    _loss_and_gradient,
    bootstrap,
    cdf,
    distance,
    fit,
    log_cdf,
    sample,
)


@pytest.mark.parametrize(
    ("z", "shape", "bits"),
    [
        (-3, 0, 9.532934),
        (-3, 2, 40.700509),
        (-3, -2, 8.532934),
        (-10, -0.7, 75.796511),
        (-50, 0, 1810.338982),
    ],
)
def test_known_tails(z: float, shape: float, bits: float) -> None:
    found = -log_cdf(np.array(30.0 + 4 * z), SkewNormal(shape, 30, 4)) / math.log(2)
    assert found == pytest.approx(bits, abs=1e-5)


@pytest.mark.parametrize("shape", [-200, -3, -0.5, 0, 0.5, 3, 200])
def test_log_cdf_cdf_and_scipy_agree_where_floats_reach(shape: float) -> None:
    law, x = SkewNormal(shape, -2, 3), np.linspace(-12, 12, 97)
    assert np.exp(log_cdf(x, law)) == pytest.approx(cdf(x, law), abs=1e-12)
    assert cdf(x, law) == pytest.approx(skewnorm.cdf(x, shape, -2, 3), abs=1e-9)
    assert log_cdf(x, law).shape == x.shape
    assert (np.diff(log_cdf(x, law)) >= 0).all()


def test_log_cdf_stays_finite() -> None:
    far = log_cdf(np.array([-1e5, -1e3, 1e3]), SkewNormal(2, 0, 1))
    assert np.isfinite(far).all()
    assert far[2] == 0
    # Known leading term: log F(z) ~ -z^2 (1 + a^2) / 2 far to the left, a > 0.
    assert far[0] == pytest.approx(-0.5 * 1e10 * 5, rel=1e-6)


def test_the_gradient() -> None:
    y = np.random.default_rng(0).standard_normal(50)
    for theta in ([0.5, 0.1, 0.2], [-4.0, 0.3, -0.1], [0.0, 0.0, 0.0]):
        at = np.array(theta)
        numeric = approx_fprime(at, lambda t: _loss_and_gradient(t, y)[0], 1e-7)
        assert _loss_and_gradient(at, y)[1] == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("shape", [-3, 0.5, 2, 8])
def test_fits_are_as_likely_as_scipy_s(shape: float) -> None:
    law = SkewNormal(shape, 30, 4)
    x = sample(law, 2000, np.random.default_rng(1))
    ours, theirs = fit(x), skewnorm.fit(x)
    likelihood = skewnorm.logpdf(x, ours.shape, ours.location, ours.scale).sum()
    assert likelihood >= skewnorm.logpdf(x, *theirs).sum() - 0.01
    assert ours.shape == pytest.approx(shape, rel=0.25, abs=0.3)
    shifted = fit(1000 - 5 * x)  # equivariant, mirrored
    assert shifted.shape == pytest.approx(-ours.shape, rel=0.02, abs=0.02)


def test_distance_against_scipy() -> None:
    from scipy.stats import kstest

    law = SkewNormal(2, 0, 1)
    x = sample(law, 500, np.random.default_rng(2))
    expected = kstest(x, lambda v: skewnorm.cdf(v, 2)).statistic
    assert distance(x, law) == pytest.approx(expected, abs=1e-9)


def test_bootstrap_sees_what_is_not_skew_normal() -> None:
    rng = np.random.default_rng(3)
    for wrong in (rng.uniform(size=1000), rng.exponential(size=1000), rng.standard_cauchy(1000),
                  rng.integers(0, 5, 1000) + 0.0, np.repeat([0.0, 1.0], 500)):  # fmt: skip
        p, refits = bootstrap(wrong, fit(wrong), rng, 20)
        assert p == 1 / 21
        assert len(refits) == 20


def p_values(fits: int, count: int) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(4)
    laws = [SkewNormal(shape, 30, 4) for shape in (-3, 0.5, 2)]
    samples = [sample(laws[i % 3], 1000, rng) for i in range(fits)]
    fitted = [(x, fit(x)) for x in samples]
    return (
        [bootstrap(x, law, rng, count)[0] for x, law in fitted],
        [distance(x, law) for x, law in fitted],
    )


def test_bootstrap_p_values_of_true_skew_normals_are_ordinary() -> None:
    found, _ = p_values(12, 20)
    assert np.mean(np.array(found) < 0.1) <= 0.34
    assert 0.25 < np.mean(found) < 0.75


def test_textbook_p_values_are_far_too_large_after_a_fit() -> None:
    rng = np.random.default_rng(5)
    laws = [SkewNormal(shape, 30, 4) for shape in (-3, -1, 0.5, 1, 2, 5)]
    samples = [sample(laws[i % 6], 1000, rng) for i in range(60)]
    distances = [distance(x, fit(x)) for x in samples]
    naive = [kstwo.sf(d, 1000) for d in distances]
    assert min(naive) > 0.25  # ours were never below .32; uniform ones were below .25 in 15 of 60
    assert np.quantile(distances, 0.95) == pytest.approx(0.0268, abs=0.0025)
    assert kstwo.isf(0.05, 1000) == pytest.approx(0.0428, abs=5e-5)


@pytest.mark.slow
def test_bootstrap_p_values_are_uniform_and_distances_small() -> None:
    found, distances = p_values(60, 60)
    assert 0.4 < np.mean(found) < 0.6
    assert np.mean(np.array(found) < 0.1) <= 0.2
    # Far below the textbook's .0428 for 1,000 samples of a law known beforehand.
    assert np.quantile(distances, 0.95) < 0.030


def test_a_fit_needs_samples_that_differ() -> None:
    for bad in (np.ones(1000), np.array([1.0, math.inf])):
        with pytest.raises(ValueError, match="finite samples that differ"):
            fit(bad)
