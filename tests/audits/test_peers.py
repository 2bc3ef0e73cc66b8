"""The same numbers as jax_privacy's auditor, wherever both say the same thing."""

import itertools

import numpy as np
import pytest
from jax_privacy import auditing
from scipy.stats import norm

from audits.bounds import clopper_pearson, gaussian, gaussian_one_run, steinke
from audits.gaussian_dp import epsilon_of
from audits.intervals import upper

# (canaries, guesses, correct)
ONE_RUN = [
    (100, 100, 75),
    (100, 100, 100),
    (1000, 100, 75),
    (1000, 100, 100),
    (1000, 200, 180),
    (1000, 1000, 600),
    (5000, 250, 230),
    (1000, 10, 2),
    (30, 7, 7),
]
# (canaries inside and outside, mu)
AUDITS = [(200, 150, 0.5), (500, 500, 1.0), (300, 400, 3.0), (50, 60, 0.0)]


@pytest.mark.parametrize("case", ONE_RUN)
@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_steinke(case: tuple[int, int, int], delta: float, alpha: float) -> None:
    m, r, v = case
    ours = steinke(canaries=m, guesses=r, correct=v, delta=delta, alpha=alpha).epsilon
    theirs = auditing._epsilon_one_run(0.0, m, r, v, alpha, delta)
    assert ours == pytest.approx(theirs, abs=3e-6)


@pytest.mark.parametrize("case", ONE_RUN)
@pytest.mark.parametrize("delta", [1e-6, 1e-4])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_gaussian_one_run(case: tuple[int, int, int], delta: float, alpha: float) -> None:
    m, r, v = case
    ours = gaussian_one_run(canaries=m, guesses=r, correct=v, delta=delta, alpha=alpha).epsilon
    theirs = auditing._epsilon_one_run_fdp(0.0, m, r, v, alpha, delta)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_upper_limits() -> None:
    for n, alpha in itertools.product((1, 20, 1000), (0.05, 0.001)):
        k = np.arange(n + 1)
        theirs = auditing._clopper_pearson_upper(k, n, alpha)
        assert upper(k, n, alpha) == pytest.approx(theirs, rel=1e-9)


def scores(n_in: int, n_out: int, mu: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([60, n_in])
    return mu + rng.standard_normal(n_in), rng.standard_normal(n_out)


@pytest.mark.parametrize("audit", AUDITS)
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_a_threshold_that_was_declared(audit: tuple[int, int, float], delta: float) -> None:
    n_in, n_out, mu = audit
    inside, outside = scores(*audit)
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    for t in (mu / 2, mu):
        counts = {"tp": int((inside >= t).sum()), "fp": int((outside >= t).sum())}
        ours = clopper_pearson(**counts, n_in=n_in, n_out=n_out, delta=delta)
        theirs = auditor.epsilon_clopper_pearson(
            0.05, delta, one_sided=False, threshold_strategy=auditing.Explicit(t)
        )
        assert ours.epsilon == pytest.approx(theirs, abs=1e-9)
        if delta == 0:
            continue
        guesses = counts["tp"] + counts["fp"]
        one = {"canaries": n_in + n_out, "guesses": guesses, "correct": counts["tp"]}
        for method, peer in (
            (steinke, auditor.epsilon_one_run),
            (gaussian_one_run, auditor.epsilon_one_run_fdp),
        ):
            found = peer(0.05, delta, threshold_strategy=auditing.Explicit(t))
            assert method(**one, delta=delta).epsilon == pytest.approx(found, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("audit", AUDITS)
def test_their_gaussian_bound_is_ours_at_the_best_threshold_paid_for(
    audit: tuple[int, int, float],
) -> None:
    inside, outside = scores(*audit)
    n_in, n_out = len(inside), len(outside)
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    # They share alpha among the thresholds at which the hull of the ROC curve turns.
    corners = list(zip(auditor._fn_counts.tolist(), auditor._tn_counts.tolist(), strict=True))
    alpha = 0.05 / len(corners)
    pairs = [
        (float(upper(n_out - tn, n_out, alpha / 2)), float(upper(fn, n_in, alpha / 2)))
        for fn, tn in corners
    ]
    # They take |Phi^-1(1 - FPR) - Phi^-1(FNR)| at the upper limits. Where those add up to more
    # than 1, nothing is shown and the difference is below 0; theirs makes a bound of it.
    signed = [float(norm.isf(a) - norm.ppf(b)) for a, b in pairs if max(a, b) < 1 - 1e-5]
    theirs = auditor.epsilon_from_gdp(0.05, 1e-5)
    assert theirs == pytest.approx(epsilon_of(max(map(abs, signed)), 1e-5), rel=1e-4)
    ours = max(
        gaussian(tp=n_in - fn, fp=n_out - tn, n_in=n_in, n_out=n_out, delta=1e-5, alpha=alpha).mu
        for fn, tn in corners
    )
    assert ours == pytest.approx(max(0.0, *signed), abs=1e-9)
    assert epsilon_of(ours, 1e-5) <= theirs + 1e-5


def test_their_gaussian_bound_is_above_zero_when_nothing_is_there() -> None:
    """jax_privacy 2.0.0, as its pull request 270 says; ours at a threshold that was declared."""
    theirs = ours = 0
    for seed in range(40):
        inside, outside = np.random.default_rng([61, seed]).standard_normal((2, 200))
        theirs += auditing.CanaryScoreAuditor(inside, outside).epsilon_from_gdp(0.05, 1e-5) > 0
        counts = {"tp": int((inside >= 0).sum()), "fp": int((outside >= 0).sum())}
        ours += gaussian(**counts, n_in=200, n_out=200, delta=1e-5).epsilon > 0
    assert theirs == 40
    assert ours <= 7  # more have a probability below .001


def test_epsilon_of_two_gaussians_is_their_accounting() -> None:
    for mu in (0.25, 1.0, 3.0):
        epsilon = epsilon_of(mu, 1e-5)
        inverse = auditing._gaussian_dp_blow_up_inverse(epsilon, 1e-5)
        for x in (1e-4, 0.1, 0.9):
            assert inverse(x) == pytest.approx(norm.cdf(norm.ppf(x) - mu), rel=1e-6)


def test_deterministic_normals() -> None:
    """1,000 quantiles each of N(1, 1) and N(0, 1): theirs pay for all thresholds, ours declare."""
    quantiles = norm.ppf((np.arange(1000) + 0.5) / 1000)
    auditor = auditing.CanaryScoreAuditor(quantiles + 1, quantiles)
    theirs = {
        "clopper-pearson": auditor.epsilon_clopper_pearson(0.05, 1e-5, one_sided=False),
        "gdp": auditor.epsilon_from_gdp(0.05, 1e-5),
        "one run": auditor.epsilon_one_run(0.05, 1e-5),
        "f-dp one run": auditor.epsilon_one_run_fdp(0.05, 1e-5),
    }
    known = {"clopper-pearson": 1.0497, "gdp": 2.9960, "one run": 0.8938, "f-dp one run": 1.4938}
    assert theirs == pytest.approx(known, abs=6e-5)
    many = {"tp": 691, "fp": 309, "n_in": 1000, "n_out": 1000, "delta": 1e-5}
    one = {"canaries": 2000, "guesses": 200, "correct": 180, "delta": 1e-5}
    assert gaussian(**many).epsilon > 1.15 * theirs["gdp"]
    assert steinke(**one).epsilon > 1.9 * theirs["one run"]
    assert gaussian_one_run(**one).epsilon > 1.7 * theirs["f-dp one run"]
    # The middle is the wrong threshold for this one; a tail that was declared is the right one.
    assert clopper_pearson(**many).epsilon < theirs["clopper-pearson"]
    tail = {"tp": int((quantiles + 1 >= 2).sum()), "fp": int((quantiles >= 2).sum())}
    declared = clopper_pearson(**tail, n_in=1000, n_out=1000, delta=1e-5)
    assert declared.epsilon > 1.3 * theirs["clopper-pearson"]
