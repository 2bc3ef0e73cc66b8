import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from audits.bounds import clopper_pearson, dkw, gaussian, gaussian_dkw, hits_many_runs, known_null
from audits.gaussian_dp import epsilon_of
from audits.intervals import massart, upper, wilson


@pytest.mark.parametrize(
    ("n", "epsilon", "mu"),
    [(100, 3.28134, 3.59277), (1000, 5.60058, 5.35982), (10_000, 7.90482, 6.75039)],
)
def test_a_perfect_attack(n: int, epsilon: float, mu: float) -> None:
    counts = {"tp": n, "fp": 0, "n_in": n, "n_out": n}
    one, two = clopper_pearson(**counts, delta=1e-5), gaussian(**counts, delta=1e-5)
    assert one.epsilon == one.ceiling == pytest.approx(epsilon, abs=6e-6)
    assert two.mu == pytest.approx(mu, abs=6e-6)
    assert two.epsilon == two.ceiling == epsilon_of(two.mu, 1e-5)
    assert one.counts == counts


def test_known_attacks() -> None:
    runs = {"n_in": 1000, "n_out": 1000, "delta": 1e-5}
    assert clopper_pearson(tp=900, fp=10, **runs).epsilon == pytest.approx(3.871959, abs=1e-6)
    assert gaussian(tp=900, fp=10, **runs).mu == pytest.approx(3.263452, abs=1e-6)
    assert gaussian(tp=900, fp=10, **runs).epsilon == pytest.approx(18.60661, abs=1e-5)
    assert clopper_pearson(tp=500, fp=1, **runs).epsilon == pytest.approx(4.434215, abs=1e-6)


def normal_scores(n: int, mu: float) -> np.ndarray:
    return mu + norm.ppf((np.arange(n) + 0.5) / n)


def test_deterministic_normals() -> None:
    inside, outside = normal_scores(1000, 1), normal_scores(1000, 0)
    tp, fp = int((inside >= 0.5).sum()), int((outside >= 0.5).sum())
    assert (tp, fp) == (691, 309)
    counts = {"tp": tp, "fp": fp, "n_in": 1000, "n_out": 1000, "delta": 1e-5}
    assert gaussian(**counts).mu == pytest.approx(0.83218, abs=6e-6)
    assert gaussian(**counts).epsilon == pytest.approx(3.54310, abs=6e-6)
    assert clopper_pearson(**counts).epsilon == pytest.approx(0.66921, abs=6e-6)


def test_both_directions_count() -> None:
    # No false negative among few hits: only (1 - FPR) / FNR is large.
    runs = {"n_in": 1000, "n_out": 1000, "delta": 0}
    one = clopper_pearson(tp=1000, fp=700, **runs).epsilon
    other = clopper_pearson(tp=300, fp=0, **runs).epsilon
    assert one == pytest.approx(other) and one > 4


def test_dkw_against_a_search_over_thresholds() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.standard_normal(400) + 1.5, rng.standard_normal(300)
    best = best_mu = 0.0
    for t in [*inside, *outside]:
        fpr = min(1.0, (outside >= t).mean() + massart(300, 0.025))
        fnr = min(1.0, (inside < t).mean() + massart(400, 0.025))
        best = max(best, *(math.log(max(1, x)) for x in ((1 - fnr) / fpr, (1 - fpr) / fnr)))
        best_mu = max(best_mu, norm.ppf(1 - fpr) - norm.ppf(fnr))
    scores = {"scores_in": torch.tensor(inside), "scores_out": list(outside)}
    bound = dkw(**scores, delta=0)
    assert bound.epsilon == pytest.approx(best)
    assert bound.counts == {"n_in": 400, "n_out": 300}
    assert gaussian_dkw(**scores, delta=1e-5).mu == pytest.approx(best_mu)
    assert 0 < bound.epsilon < bound.ceiling


def test_dkw_takes_infinite_scores() -> None:
    bound = dkw(scores_in=[math.inf] * 500, scores_out=[-math.inf] * 500, delta=0)
    assert bound.epsilon == bound.ceiling > 1


def test_hits_in_many_runs() -> None:
    bound = hits_many_runs(hits=30, canaries=100, bits=8, delta=1e-5)
    assert bound.epsilon == pytest.approx(4.053137, abs=1e-6)
    assert hits_many_runs(hits=0, canaries=100, bits=8, delta=1e-5).epsilon == 0
    assert hits_many_runs(hits=1, canaries=100, bits=8, delta=0.5).epsilon == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([0.0, 1e-5, 0.1]), st.data())
def test_bounds_are_monotone_below_the_ceiling(
    n_in: int, n_out: int, delta: float, data: st.DataObject
) -> None:
    tp, fp = data.draw(st.integers(0, n_in - 1)), data.draw(st.integers(0, n_out - 1))
    base = gaussian(tp=tp, fp=fp, n_in=n_in, n_out=n_out, delta=delta)
    hit = gaussian(tp=tp + 1, fp=fp, n_in=n_in, n_out=n_out, delta=delta)
    slip = gaussian(tp=tp, fp=fp + 1, n_in=n_in, n_out=n_out, delta=delta)
    assert slip.mu <= base.mu <= hit.mu
    assert hit.epsilon <= hit.ceiling
    bound = clopper_pearson(tp=tp, fp=fp, n_in=n_in, n_out=n_out, delta=delta)
    assert 0 <= bound.epsilon <= bound.ceiling


def check_gaussian_coverage(mu: float, trials: int) -> None:
    n, delta, rng = 200, 1e-5, np.random.default_rng(30)
    tp = rng.binomial(n, norm.cdf(mu / 2), trials).tolist()
    fp = rng.binomial(n, norm.cdf(-mu / 2), trials).tolist()

    @cache
    def over(tp: int, fp: int) -> tuple[bool, bool]:
        counts = {"tp": tp, "fp": fp, "n_in": n, "n_out": n, "delta": delta}
        return (
            clopper_pearson(**counts).epsilon > epsilon_of(mu, delta),
            gaussian(**counts).mu > mu,
        )

    misses = np.array([over(*pair) for pair in zip(tp, fp, strict=True)]).sum(0)
    for miss in misses:
        assert wilson(int(miss), trials, 0.01)[0] <= 0.05


def check_laplace_coverage(epsilon: float, trials: int) -> None:
    """A count of 1 or 0 plus Laplace noise of scale 1 / epsilon, called "in" at 1 and above."""
    n, rng = 200, np.random.default_rng(31)
    tp, fp = rng.binomial(n, 0.5, trials), rng.binomial(n, 0.5 * math.exp(-epsilon), trials)
    miss = sum(
        clopper_pearson(tp=int(a), fp=int(b), n_in=n, n_out=n, delta=0).epsilon > epsilon
        for a, b in zip(tp, fp, strict=True)
    )
    assert wilson(miss, trials, 0.01)[0] <= 0.05


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_coverage(mu: float) -> None:
    check_gaussian_coverage(mu, 300)
    check_laplace_coverage(mu, 300)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_coverage_over_many_audits(mu: float) -> None:
    check_gaussian_coverage(mu, 2000)
    check_laplace_coverage(mu, 2000)


def test_the_best_threshold_needs_dkw() -> None:
    # At epsilon 0 the best of all thresholds fires too often, unless the choice is paid for.
    rng, n, best, paid = np.random.default_rng(32), 500, 0, 0
    for _ in range(200):
        inside, outside = rng.standard_normal((2, n))
        t = np.concatenate([inside, outside])[:, None]
        tp, fp = (inside >= t).sum(1), (outside >= t).sum(1)
        best += bool((upper(fp, n, 0.025) < 1 - upper(n - tp, n, 0.025)).any())
        paid += dkw(scores_in=inside, scores_out=outside, delta=0).epsilon > 0
    assert paid <= 0.05 * 200 < best


@pytest.mark.parametrize(
    "wrong",
    [
        {"tp": 11},
        {"tp": -1},
        {"fp": 9},
        {"fp": 0.5},
        {"n_in": 0, "tp": 0},
        {"n_out": math.nan},
        {"delta": 1.0},
        {"delta": math.nan},
        {"alpha": 0.0},
        {"alpha": math.nan},
    ],
)
def test_impossible_arguments(wrong: dict[str, float]) -> None:
    arguments = {"tp": 9, "fp": 1, "n_in": 10, "n_out": 8, "delta": 1e-5, "alpha": 0.05, **wrong}
    for method in (clopper_pearson, gaussian):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*expected"):
            method(**arguments)


def test_impossible_scores_and_hits() -> None:
    with pytest.raises(ValueError, match="scores_in has 1 NaN"):
        dkw(scores_in=[math.nan], scores_out=[0.0], delta=0)
    with pytest.raises(ValueError, match="scores_out is empty"):
        gaussian_dkw(scores_in=[0.0], scores_out=[], delta=0)
    with pytest.raises(ValueError, match="hits is 3; expected an integer from 0 to 2"):
        hits_many_runs(hits=3, canaries=2, bits=8, delta=0)
    with pytest.raises(ValueError, match="bits is nan"):
        hits_many_runs(hits=1, canaries=2, bits=math.nan, delta=0)


def test_a_known_rate_of_false_positives_leaves_all_of_alpha_for_misses() -> None:
    bound = known_null(tp=90, n_in=100, fpr=0.01, delta=1e-5)
    assert bound.epsilon == pytest.approx(math.log((1 - float(upper(10, 100, 0.05)) - 1e-5) / 0.01))
    assert bound.ceiling == pytest.approx(math.log((1 - float(upper(0, 100, 0.05)) - 1e-5) / 0.01))
    assert bound.counts == {"tp": 90, "n_in": 100}
    measured = clopper_pearson(tp=90, fp=100, n_in=100, n_out=10_000, delta=1e-5)
    assert bound.epsilon > measured.epsilon
    # Misses against a high rate of false positives: the other direction.
    other = known_null(tp=100, n_in=100, fpr=0.5, delta=0)
    assert other.epsilon == pytest.approx(math.log(0.5 / float(upper(0, 100, 0.05))))


@pytest.mark.parametrize("fpr", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_known_rate(fpr: float) -> None:
    with pytest.raises(ValueError, match="fpr is"):
        known_null(tp=1, n_in=2, fpr=fpr, delta=0)
    with pytest.raises(ValueError, match="tp is 3"):
        known_null(tp=3, n_in=2, fpr=0.5, delta=0)
