import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, bootstrap
from sklearn.metrics import roc_auc_score

from audits.membership import auc, hanley_mcneil, null_sd

KNOWN = [1, 2, 3, 4, 5, 0, 1, 2, 3], [True] * 5 + [False] * 4


def drawn(n_in: int, n_out: int, seed: int, ties: bool = False):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0.8, 1.5, n_in), rng.normal(size=n_out)])
    return np.round(scores) if ties else scores, np.arange(n_in + n_out) < n_in


def test_known_area() -> None:
    found = auc(*KNOWN)
    assert found.estimate == pytest.approx(0.775)
    assert found.se == pytest.approx(0.164253, abs=1e-6)
    assert hanley_mcneil(0.775, 5, 4) == pytest.approx(0.162925, abs=1e-6)
    assert found.low == pytest.approx(0.775 - 1.959964 * 0.164253, abs=1e-6)
    assert found.high == 1
    assert found.counts == {"n_in": 5, "n_out": 4}
    assert not found.valid
    assert found.reasons == ("a normal approximation to 4 records of one side is too rough",)


def test_known_null_sd() -> None:
    assert null_sd(500, 500) == pytest.approx(0.018267, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_against_all_pairs(ties: bool) -> None:
    scores, inside = drawn(60, 45, 3, ties)
    members, others = scores[inside], scores[~inside]
    wins = np.array([[(a > b) + 0.5 * (a == b) for b in others] for a in members])
    variance = wins.mean(1).var(ddof=1) / 60 + wins.mean(0).var(ddof=1) / 45
    found = auc(scores, inside)
    assert found.estimate == pytest.approx(wins.mean())
    assert found.estimate == pytest.approx(roc_auc_score(inside, scores))
    assert found.se == pytest.approx(math.sqrt(variance))
    assert found.valid


@pytest.mark.parametrize("n", [150, 600])
def test_delong_against_a_bootstrap(n: int) -> None:
    scores, inside = drawn(n, n // 2, 4)
    result = bootstrap(
        (scores[inside], scores[~inside]),
        lambda a, b: float((a[:, None] > b[None]).mean()),
        n_resamples=1000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    found = auc(scores, inside)
    assert found.se == pytest.approx(result.standard_error, rel=0.1)
    assert found.low == pytest.approx(result.confidence_interval.low, abs=0.3 * found.se)
    assert found.high == pytest.approx(result.confidence_interval.high, abs=0.3 * found.se)


def test_the_order_of_records_and_the_scale_of_scores_do_not_matter() -> None:
    scores, inside = drawn(30, 40, 5)
    order = np.random.default_rng(0).permutation(70)
    moved = auc(torch.from_numpy(np.exp(scores[order])), torch.from_numpy(inside[order]))
    assert moved == auc(scores, inside)
    turned = auc(-scores, inside)
    assert turned.estimate == pytest.approx(1 - moved.estimate)
    assert turned.se == pytest.approx(moved.se)


def test_under_the_null_the_area_stays_within_its_band() -> None:
    """500 and 500 scores of one law: .5 +- 1.96 * .0183 for 95 % of 400 seeds, and so DeLong's."""
    band = covered = 0
    for seed in range(400):
        scores = np.random.default_rng(seed).normal(size=1000)
        found = auc(scores, np.arange(1000) < 500)
        band += abs(found.estimate - 0.5) <= 1.96 * 0.0183
        covered += found.low <= 0.5 <= found.high
    low, high = binom.interval(1 - 1e-3, 400, 0.95)
    assert low <= band <= high
    assert low <= covered <= high


def test_the_interval_covers_a_known_area() -> None:
    # N(1, 1) against N(0, 1): Phi(1 / sqrt 2).
    hits = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        scores = np.concatenate([rng.normal(1, 1, 80), rng.normal(size=120)])
        found = auc(scores, np.arange(200) < 80)
        hits += found.low <= 0.760250 <= found.high
    assert hits >= binom.ppf(1e-3, 400, 0.95)


@pytest.mark.parametrize(("scores", "area"), [(np.arange(100.0), 0.0), (np.zeros(100), 0.5)])
def test_without_spread_the_interval_is_not_a_point(scores, area: float) -> None:
    found = auc(scores, np.arange(100) < 50)
    half = math.sqrt(math.log(2 / 0.05) / 100)
    assert (found.estimate, found.se, found.method) == (area, 0, "Hoeffding")
    assert found.low == pytest.approx(max(0, area - half))
    assert found.high == pytest.approx(area + half)


def test_attacks_that_were_tried_widen_the_interval() -> None:
    one, five = (auc(*drawn(50, 50, 6), n_tests=n) for n in (1, 5))
    assert five.n_tests == 5
    assert five.high - five.estimate == pytest.approx(2.575829 * five.se)  # alpha / 5 = .01
    assert one.high - one.estimate == pytest.approx(1.959964 * one.se)
    assert five.high > one.high
    assert "no more than 5 attacks" in five.assumptions[1]
    perfect = auc(np.arange(100.0), np.arange(100) >= 50, n_tests=5)
    assert perfect.low == pytest.approx(1 - math.sqrt(math.log(2 / 0.01) / 100))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: auc([1.0, math.nan], [True, False]), "1 NaN among 2"),
        (lambda: auc([1.0, 2.0], [True]), "expected one flag for each score"),
        (lambda: auc([1.0, 2.0], [1, 0]), "type int64; expected booleans"),
        (lambda: auc([1.0, 2.0], [True, True]), "2 members and 0 non-members"),
        (lambda: auc([1.0, 2.0, 3.0], [True, False, False]), "expected at least 2 of each"),
        (lambda: auc([[1.0, 2.0]], [[True, False]]), r"shape \(1, 2\); expected \[n\]"),
        (lambda: auc(*KNOWN, alpha=0), "alpha is 0"),
        (lambda: auc(*KNOWN, n_tests=0), "n_tests is 0"),
        (lambda: hanley_mcneil(1.1, 5, 5), "area is 1.1"),
        (lambda: null_sd(0, 5), "n_in is 0"),
    ],
)
def test_bad_input_is_never_a_number(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
