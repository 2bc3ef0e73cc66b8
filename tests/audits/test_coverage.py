"""Bounds hold in simulated audits of mechanisms whose epsilon is known, and are worth having."""

import math
from functools import cache

import numpy as np
import pytest

from audits.bounds import default_guesses, rejects_claim, rejects_claim_one_run
from audits.intervals import wilson
from benchmarks.audit_cases import (
    EPSILONS,
    MUS,
    Case,
    chosen_case,
    gaussian_case,
    laplace_case,
    response_case,
    sampled,
    secrets_case,
)
from benchmarks.audit_coverage import Coverage, simulate
from benchmarks.audit_methods import ALPHA, right

AUDITS, CANARIES = 2000, 1000


def covered(case: Case, seed: int, audits: int = AUDITS) -> dict[str, Coverage]:
    found = simulate(case, CANARIES, audits, seed)
    return {it.method: it for it in found}


@cache
def gaussian_canaries(mu: float) -> dict[str, Coverage]:
    return covered(gaussian_case(mu), 80)


@pytest.mark.slow
@pytest.mark.parametrize("mu", MUS)
def test_gaussian_canaries(mu: float) -> None:
    found = gaussian_canaries(mu)
    assert len(found) == 6
    assert all(it.holds and it.audits == AUDITS for it in found.values())
    assert all(it.mean <= it.truth + 1e-2 for it in found.values())
    if mu == 1:
        assert found["steinke"].share >= 0.36
        assert found["gaussian one-run"].share >= 0.55
        assert found["gaussian"].share >= 0.72
    if mu == 0:
        assert found["steinke"].failures > 0  # the level is used, and not only kept


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_pure_mechanisms(epsilon: float) -> None:
    laplace, response = covered(laplace_case(epsilon), 81), covered(response_case(epsilon), 82)
    assert all(it.holds for it in (*laplace.values(), *response.values()))
    if epsilon:
        assert laplace["clopper-pearson"].share > 0.7
        assert response["steinke"].share > 0.86
        assert response["steinke"].failures > 0.01 * AUDITS


@pytest.mark.parametrize("epsilon", [0.0, 4.0, 8.0])
def test_secrets_told_by_rank(epsilon: float) -> None:
    found = covered(secrets_case(epsilon), 83)
    assert all(it.holds for it in found.values())
    if epsilon:
        assert all(it.share > 0.93 for it in found.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "steps", "sigma"), [(0.1, 20, 1.0), (0.02, 50, 0.6), (0.5, 4, 2.0), (1.0, 4, 2.0)]
)
def test_subsampled_claims(rate: float, steps: int, sigma: float) -> None:
    """A claim that is met is rejected in at most 5 % of audits; one that is not, in most."""
    claim = {"rate": rate, "steps": steps, "alpha": ALPHA}
    rng, m = np.random.default_rng(84), 400
    coins, scores = sampled(rate, steps, sigma, 50_000, rng)
    threshold = float(np.quantile(scores[~coins], 0.9))

    @cache
    def one_run(v: int, noise: float) -> bool:
        counts = {"canaries": m, "guesses": default_guesses(m), "correct": v}
        return rejects_claim_one_run(**counts, **claim, noise_multiplier=noise)

    def many_runs(tp: int, fp: int, n_in: int, noise: float) -> bool:
        counts = {"tp": tp, "fp": fp, "n_in": n_in, "n_out": m - n_in}
        return rejects_claim(**counts, **claim, noise_multiplier=noise)

    met, missed = np.zeros(2), np.zeros(2)
    for _ in range(AUDITS):
        coins, scores = sampled(rate, steps, sigma, m, rng)
        v = right(coins, scores, default_guesses(m))
        called = scores >= threshold
        counts = int((called & coins).sum()), int((called & ~coins).sum()), int(coins.sum())
        met += one_run(v, sigma), many_runs(*counts, sigma)
        missed += one_run(v, 8 * sigma), many_runs(*counts, 8 * sigma)
    assert all(wilson(int(it), AUDITS, 0.01)[0] <= ALPHA for it in met)
    assert (missed > 0.5 * AUDITS).all()


@pytest.mark.slow
def test_what_is_chosen_afterwards_is_no_bound() -> None:
    found = covered(chosen_case(), 85, 500)
    for label in ("steinke, best of 9 numbers of guesses", "steinke, best of 5 attacks"):
        assert found[label].interval[0] > 2 * ALPHA
    declared = gaussian_canaries(0.0)
    assert declared["steinke"].holds
    known = declared["clopper-pearson"].failures / AUDITS
    assert found["clopper-pearson, best threshold"].failures / 500 > 10 * max(known, 0.001)
    assert all(math.isnan(it.share) for it in found.values())
