import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from audits.intervals import (
    check_count,
    check_scores,
    lower,
    massart,
    mean_interval,
    upper,
    wilson,
)


@pytest.mark.parametrize(
    ("k", "n", "alpha", "limit"),
    [(0, 100, 0.05, 0.02951305), (5, 100, 0.05, 0.10225338), (0, 1000, 0.025, 0.00368208)],
)
def test_known_upper_limits(k: int, n: int, alpha: float, limit: float) -> None:
    assert upper(k, n, alpha) == pytest.approx(limit, abs=1e-8)


def test_limits_that_reports_quote() -> None:
    # 1 false positive of 1,000 means a rate of at most .004735; 100 of 1,000 an interval.
    assert upper(1, 1000, 0.05) == pytest.approx(0.004735, abs=1e-6)
    assert lower(100, 1000, 0.025) == pytest.approx(0.082105, abs=1e-6)
    assert upper(100, 1000, 0.025) == pytest.approx(0.120288, abs=1e-6)
    assert upper(0, 2995, 0.05) <= 1e-3 < upper(0, 2994, 0.05)
    assert upper(0, 299, 0.05) <= 1e-2 < upper(0, 298, 0.05)


@given(st.integers(1, 500), st.data())
def test_limits_invert_the_binomial_tails(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    high, low = float(upper(k, n, 0.03)), float(lower(k, n, 0.03))
    assert high == 1 if k == n else binom.cdf(k, n, high) == pytest.approx(0.03)
    assert low == 0 if k == 0 else binom.sf(k - 1, n, low) == pytest.approx(0.03)
    assert low <= k / n <= high


def test_limits_keep_the_shape_of_the_counts() -> None:
    counts = np.array([[0, 1], [99, 100]])
    assert upper(counts, 100, 0.05).shape == lower(counts, 100, 0.05).shape == (2, 2)


def test_wilson_contains_the_share_and_narrows() -> None:
    low, high = wilson(15, 300, 0.05)
    assert low == pytest.approx(0.03054, abs=1e-4)  # textbook formula, by hand
    assert low < 0.05 < high < wilson(5, 100, 0.05)[1]


def test_massart_at_a_thousand() -> None:
    assert massart(1000, 0.05 / 2) == pytest.approx(0.042947, abs=1e-6)


def test_mean_interval_covers_and_depends_on_the_seed_only() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        values = rng.exponential(size=40)
        low, high = mean_interval(values, 0.05, np.random.default_rng(0))
        hits += low <= 1 <= high
    assert hits >= 51
    values = rng.exponential(size=40)
    one, two = (mean_interval(values, 0.05, np.random.default_rng(3)) for _ in range(2))
    assert one == two
    half = norm.ppf(0.975) * values.std() / math.sqrt(40)
    assert one[1] - one[0] == pytest.approx(2 * half, rel=0.25)


def test_scores_of_every_kind() -> None:
    tensor = torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    for values in ([1.5, 2.0], (1.5, 2.0), np.array([1.5, 2.0], np.float32), tensor):
        scores = check_scores("loss", values)
        assert scores.dtype == np.float64
        assert scores.tolist() == [1.5, 2.0]
    assert check_scores("loss", 3.0).shape == check_scores("loss", torch.tensor(3.0)).shape == ()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: upper(3, 2, 0.05), "successes are 3"),
        (lambda: lower(-1, 2, 0.05), "successes are -1"),
        (lambda: upper(1.5, 2, 0.05), "successes are 1.5"),
        (lambda: upper(0, 0, 0.05), "trials is 0"),
        (lambda: upper(0, 1, 0.0), "alpha is 0.0"),
        (lambda: massart(10, 0.6), "alpha is 0.6"),
        (lambda: check_count("r", 2.5, 0), "r is 2.5; expected an integer at least 0"),
        (lambda: check_count("r", 7, 0, 6), "r is 7; expected an integer from 0 to 6"),
        (lambda: check_scores("loss", []), "loss is empty"),
        (lambda: check_scores("loss", [1.0, math.nan]), "loss has 1 NaN among 2"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
