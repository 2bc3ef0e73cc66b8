import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from audits.gaussian_scores import (
    accuracy_of,
    auc_of,
    cosine_density,
    cosine_false_alarms,
    moments,
    true_positives_of,
)
from audits.intervals import wilson


@pytest.mark.parametrize(
    ("mu", "auc", "permille", "percent", "accuracy"),
    [(1, 0.760250, 0.018298, 0.092362, 0.691462), (2, 0.921350, 0.137805, 0.372081, 0.841345)],
)
def test_what_gaussian_scores_mean(
    mu: float, auc: float, permille: float, percent: float, accuracy: float
) -> None:
    assert auc_of(mu) == pytest.approx(auc, abs=1e-6)
    assert true_positives_of(mu, 1e-3) == pytest.approx(permille, abs=1e-6)
    assert true_positives_of(mu, 1e-2) == pytest.approx(percent, abs=1e-6)
    assert accuracy_of(mu) == pytest.approx(accuracy, abs=1e-6)
    rng = np.random.default_rng(51)
    inside, outside = mu + rng.standard_normal(200_000), rng.standard_normal(200_000)
    assert (inside > outside).mean() == pytest.approx(auc, abs=5e-3)
    assert (inside > norm.isf(0.01)).mean() == pytest.approx(percent, abs=5e-3)
    assert ((inside > mu / 2).mean() + (outside <= mu / 2).mean()) / 2 == pytest.approx(
        accuracy, abs=5e-3
    )


@pytest.mark.parametrize("dimension", [3, 50, 999])
def test_cosines_of_random_directions(dimension: int) -> None:
    total, variance = (
        quad(lambda t, k=k: t**k * float(cosine_density(t, dimension)), -1, 1, points=[0])[0]
        for k in (0, 2)
    )
    assert total == pytest.approx(1, abs=1e-8)
    assert dimension * variance == pytest.approx(1, abs=1e-6)
    for t in (-0.3, 0.0, 0.05, 0.2):
        tail = quad(lambda u: float(cosine_density(u, dimension)), t, 1, points=[max(t, 0.1)])[0]
        assert cosine_false_alarms(t, dimension) == pytest.approx(tail, rel=1e-6, abs=1e-12)
    rng = np.random.default_rng(52)
    directions = rng.standard_normal((20_000, dimension))
    seen = directions[:, 0] / np.linalg.norm(directions, axis=1)
    t = 1 / math.sqrt(dimension)
    assert (seen >= t).mean() == pytest.approx(float(cosine_false_alarms(t, dimension)), abs=0.015)


def test_cosines_are_gaussian_in_high_dimensions() -> None:
    t = np.linspace(-0.1, 0.1, 41)
    assert cosine_density(t, 10_000) == pytest.approx(norm.pdf(t, scale=0.01), rel=0.01, abs=1e-3)
    assert cosine_false_alarms(t[20:31], 10_000) == pytest.approx(
        norm.sf(t[20:31], scale=0.01), rel=0.02
    )


def test_moments_of_known_scores() -> None:
    found = moments([3.0, 5.0], [1.0, 3.0, 2.0])
    assert found.mu == pytest.approx(2 / math.sqrt(4 / 3))
    assert found.error == pytest.approx(math.sqrt(1 / 2 + 1 / 3 + 3 / (2 * 3)))
    assert found.low == pytest.approx(found.mu - 1.6448536 * found.error)
    assert found.high - found.mu == pytest.approx(found.mu - found.low)
    assert found.counts == {"n_in": 2, "n_out": 3}


def test_moments_are_an_estimate_and_say_so() -> None:
    """Their lower end is above the truth about as often as alpha says, if scores are Gaussian."""
    rng, over, trials = np.random.default_rng(53), 0, 2000
    for _ in range(trials):
        found = moments(1 + rng.standard_normal(200), rng.standard_normal(200))
        over += found.low > 1
    low, high = wilson(over, trials, 1e-3)
    assert low <= 0.05 <= high
    assert not found.valid and "estimate" in found.reasons[0]


def test_moments_fail_where_scores_are_not_gaussian() -> None:
    """One outlier in a hundred at mu = 0 outside: what would be a bound is wrong far more often."""
    rng, over, trials = np.random.default_rng(54), 0, 500
    truth = 1.0  # in deviations of the smaller side
    for _ in range(trials):
        outside, inside = 0.2 * rng.standard_normal(200), truth + rng.standard_normal(20)
        over += moments(inside, outside).low > truth
    assert over > 0.5 * trials


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: moments([1.0], [2.0]), "1 and 1 scores do not vary"),
        (lambda: moments([1.0, 1.0], [2.0, 2.0]), "2 and 2 scores do not vary"),
        (lambda: moments([1.0, math.inf], [2.0, 3.0]), "scores_in has infinite"),
        (lambda: moments([1.0, 2.0], [math.nan]), "scores_out has 1 NaN"),
        (lambda: moments([1.0, 2.0], [3.0, 4.0], alpha=0), "alpha is 0"),
        (lambda: true_positives_of(1, 1.1), "false_alarms is 1.1"),
        (lambda: cosine_density(1.1, 50), "cosine is 1.1"),
        (lambda: cosine_false_alarms(math.nan, 50), "cosine is nan"),
        (lambda: cosine_density(0.1, 2), "dimension is 2"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
