"""The self-test judges runs, counts what it catches, and refuses what it cannot judge."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from audits.bounds import gaussian_one_run, steinke
from audits.claimed_curve import subsampled_one_run
from audits.gaussian_dp import epsilon_of
from audits.intervals import wilson
from audits.self_test import (
    Case,
    Claim,
    Design,
    Observed,
    Row,
    correlation,
    judge,
    once,
    repetition,
    shared,
    trial,
)

T, SIGMA, M, K = 16, 4.0, 1000, 400


# ---- noise -----------------------------------------------------------------------------------


def slow_repetition(noise):
    """One pair after the other."""
    least = min(np.abs(noise[s] - noise[t]).max() for s in range(len(noise)) for t in range(s))
    pairs = len(noise) * (len(noise) - 1) / 2
    each = 2 * stats.norm.cdf(least / math.sqrt(2)) - 1
    return min(1.0, pairs * each ** noise.shape[1])


def slow_correlation(noise):
    smallest = min(
        stats.pearsonr(noise[s], noise[t]).pvalue for s in range(len(noise)) for t in range(s)
    )
    return min(1.0, len(noise) * (len(noise) - 1) / 2 * smallest)


@pytest.mark.parametrize("scale", [0.5, 0.95, 1.0, 2.0])
def test_noise_tests_equal_their_definitions(scale):
    rng = np.random.default_rng(0)
    for steps, k in ((2, 2), (2, 5), (5, 30), (9, 200)):
        noise = scale * rng.standard_normal((steps, k))
        assert repetition(noise) == pytest.approx(slow_repetition(noise), rel=1e-6)
        if k > 2:
            assert correlation(noise) == pytest.approx(slow_correlation(noise), rel=1e-6)


@pytest.mark.parametrize("test", [repetition, correlation])
def test_fresh_noise_fails_as_seldom_as_it_may(test):
    """2,000 runs; the rate is at most alpha, and not much less: pairs are nearly independent."""
    rng = np.random.default_rng(1)
    failed = sum(test(rng.standard_normal((8, 60))) < 0.05 for _ in range(2000))
    low, high = wilson(failed, 2000, 1e-3)
    assert low <= 0.05 and high >= 0.03


@pytest.mark.parametrize("test", [repetition, correlation])
def test_noise_that_comes_back_once_is_found(test):
    noise = np.random.default_rng(2).standard_normal((30, 300))
    assert test(noise) > 1e-3
    noise[23] = noise[4]
    assert test(noise) < 1e-100


def test_what_each_test_sees():
    """Small noise differs little from step to step; averaged noise is correlated."""
    noise = np.random.default_rng(3).standard_normal((16, 1000))
    assert repetition(noise / math.sqrt(2)) < 1e-6 and correlation(noise / 2) > 0.05
    averaged = noise.cumsum(0) / np.sqrt(np.arange(1, 17))[:, None]
    assert correlation(averaged) < 1e-100
    assert repetition(2 * noise) > 0.05 and correlation(2 * noise) > 0.05  # too much: invisible
    assert correlation(-np.stack([noise[0], -noise[0]])) < 1e-100


def test_no_noise_and_one_step():
    assert repetition(np.zeros((3, 50))) < 1e-200 and correlation(np.zeros((3, 50))) == 0
    one = np.random.default_rng(4).standard_normal((1, 50))
    assert repetition(one) == correlation(one) == 1
    for test in (repetition, correlation):
        for wrong in (np.zeros(5), np.zeros((0, 5)), np.zeros((3, 1)), np.full((3, 5), np.nan)):
            with pytest.raises(ValueError, match=r"noise has shape"):
                test(wrong)


# ---- one run ---------------------------------------------------------------------------------


def observed(seed, *, sigma=SIGMA, claim=None, rate=1.0, steps=T, gap=1.0, stale=False):
    """A Gaussian mechanism with this noise, which claims `claim`."""
    rng = np.random.default_rng(seed)
    inserted = rng.integers(0, 2, M) == 1
    drawn = gap * (inserted & (rng.random((steps, M)) < rate))
    shape = (1, K) if stale else (steps, K)
    return Observed(
        ids=tuple(f"c{i}" for i in range(M)),
        inserted=inserted,
        places=drawn + sigma * rng.standard_normal((steps, M)),
        beside=np.broadcast_to(sigma * rng.standard_normal(shape), (steps, K)),
        claim=claim or Claim(epsilon_of(1.0, 1e-5), rate, SIGMA, steps),
    )


def test_a_verdict_is_made_of_the_declared_guesses():
    """The slow twin: sort, count, bound."""
    seen = observed(0)
    verdict = judge(seen, Design())
    ranked = sorted(range(M), key=lambda i: seen.places[:, i].sum())
    right = sum(not seen.inserted[i] for i in ranked[:100])
    right += sum(bool(seen.inserted[i]) for i in ranked[-100:])
    counts = {"canaries": M, "guesses": 200, "correct": right, "delta": 1e-5, "alpha": 0.05}
    assert verdict.bound == gaussian_one_run(**counts)
    assert verdict.steinke == steinke(**counts)
    assert verdict.trials.method == "gaussian" and verdict.trials.counts["n_in"] == sum(
        seen.inserted
    )
    noise = seen.beside / SIGMA
    assert verdict.repeated == min(1.0, 2 * min(repetition(noise), correlation(noise)))
    assert seen.claim.mu == 1 and not verdict.exceeds and not verdict.stale


def test_a_claim_that_is_met_is_seldom_contradicted():
    verdicts = [judge(observed(seed), Design()) for seed in range(60)]
    for wrong in ("exceeds", "stale"):
        assert wilson(sum(getattr(v, wrong) for v in verdicts), 60, 0.05)[0] <= 0.05
    assert 2.2 < np.mean([v.bound.epsilon for v in verdicts]) < 2.7
    assert all(v.steinke.epsilon < v.claim.epsilon for v in verdicts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": SIGMA / math.sqrt(8)},
        {"sigma": SIGMA / 2},
        {"sigma": 1e-6},
        {"gap": 10.0},
    ],
    ids=str,
)
def test_a_claim_that_is_not_met_is_contradicted(wrong):
    verdicts = [judge(observed(seed, **wrong), Design()) for seed in range(20)]
    assert sum(v.exceeds for v in verdicts) >= 19
    assert sum(v.stale for v in verdicts) == (0 if "gap" in wrong else 20)
    assert not any(v.steinke.epsilon > v.claim.epsilon for v in verdicts)


def test_stale_noise_is_found_where_no_canary_is():
    verdict = judge(observed(0, stale=True), Design())
    assert verdict.stale and not verdict.exceeds


def test_below_full_batches_the_claimed_curves_decide():
    claim = Claim(3.0, 0.25, 3.0, 40)
    seen = observed(1, sigma=3.0, rate=0.25, steps=40, claim=claim)
    verdict = judge(seen, Design())
    assert claim.mu is None and verdict.bound.method == "subsampled one-run"
    assert verdict.bound == subsampled_one_run(
        **verdict.bound.counts, rate=0.25, steps=40, delta=1e-5, alpha=0.05
    )
    assert verdict.trials.method.startswith("subsampled") and not verdict.exceeds
    loud = judge(observed(1, sigma=0.5, rate=0.25, steps=40, claim=claim), Design())
    assert loud.exceeds and loud.bound.epsilon > 5


def test_order_and_names_of_canaries_do_not_matter():
    seen = observed(2)
    order = np.random.default_rng(0).permutation(M)
    other = dataclasses.replace(
        seen,
        ids=tuple(seen.ids[i] for i in order),
        inserted=seen.inserted[order],
        places=seen.places[:, order],
    )
    assert judge(other, Design()) == judge(seen, Design())


def test_half_of_alpha_for_each_of_two():
    assert shared(Design(alpha=0.05)) == Design(alpha=0.025)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("a",) * M}, "1 different ids"),
        ({"inserted": np.ones(3, dtype=bool)}, r"coins of shape \(3,\)"),
        ({"places": np.zeros((T - 1, M))}, "expected 16 steps"),
        ({"places": np.zeros((T, M - 1))}, "1000 canaries"),
        ({"places": np.full((T, M), np.nan)}, "NaN or infinite"),
        ({"beside": np.full((T, K), np.inf)}, "NaN or infinite"),
        ({"beside": np.zeros((T + 1, K))}, "expected 16 steps"),
        ({"claim": Claim(math.inf, 1.0, SIGMA, T)}, "claims epsilon inf"),
        ({"claim": Claim(1.0, 1.0, 0.0, T)}, "nothing to be tested"),
    ],
    ids=str,
)
def test_what_cannot_be_observed(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(observed(0), **change)


def test_what_cannot_be_judged():
    for wrong in ({"guesses": 3}, {"guesses": 0}, {"alpha": 0.0}, {"delta": 1.0}):
        with pytest.raises(ValueError):
            Design(**wrong)
    with pytest.raises(ValueError, match="1000 canaries for 1002 guesses"):
        judge(observed(0), Design(guesses=1002))
    with pytest.raises(ValueError, match="0 of them inserted"):
        judge(dataclasses.replace(observed(0), inserted=np.zeros(M, dtype=bool)), Design())


# ---- many runs -------------------------------------------------------------------------------


class Probe:
    """Shows what a mechanism with this noise would have shown, whatever the loop did."""

    def __init__(self, seed, sigma):
        self.seed, self.sigma, self.updates = seed, sigma, None

    def __call__(self):
        return "engine"

    def observed(self, updates):
        self.updates = updates
        return observed(self.seed, sigma=self.sigma)


def loop(factory, dataset, seed):
    assert factory() == "engine" and dataset == "data" and isinstance(seed, int)
    return torch.zeros(T, 3)


def case(sigma=SIGMA, found_by="bound", made=None):
    def probe(seed):
        made.append(Probe(seed, sigma)) if made is not None else None
        return made[-1] if made is not None else Probe(seed, sigma)

    return Case("a bug", probe, found_by)


def test_runs_are_counted():
    row = trial(loop, "data", case(SIGMA / 4), runs=6, seed=0, design=Design())
    assert (row.runs, row.caught, row.exceeding, row.stale) == (6, 6, 6, 6)
    assert row.interval == wilson(6, 6, 0.05) and not row.missed
    assert row.mean("bound") == np.mean([v.bound.epsilon for v in row.verdicts]) > 6


def test_each_run_has_a_seed_of_its_own():
    made = []
    trial(loop, "data", case(made=made), runs=5, seed=0, design=Design())
    trial(loop, "data", case(made=made), runs=5, seed=1, design=Design())
    assert len({probe.seed for probe in made}) == 10
    assert all(probe.updates.shape == (T, 3) for probe in made)


def test_what_must_catch_a_bug_is_what_counts():
    verdict = judge(observed(0), Design())

    def row(found_by, *pairs):
        seen = [
            dataclasses.replace(
                verdict,
                claim=verdict.claim._replace(epsilon=0.01 if exceeds else 9.0),
                repeated=0.0 if stale else 1.0,
            )
            for exceeds, stale in pairs
        ]
        return Row(Case("a bug", None, found_by), tuple(seen))

    pairs = [(True, False), (False, True), (False, True), (False, False), (False, False)]
    assert (row("bound", *pairs).caught, row("noise", *pairs).caught) == (1, 2)
    assert row("bound", *pairs).missed and row("noise", *pairs).missed
    assert row("nothing", *pairs).caught == 1 and not row("nothing", *pairs).missed
    assert not row("bound", *[(True, False)] * 4, (False, False)).missed  # 4 of 5 may be chance
    assert row("bound", *[(True, False)] * 30, *[(False, False)] * 10).missed


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned NoneType"),
        ([[1.0]], "returned list"),
        (torch.zeros(3), r"shape \[3\]"),
        (torch.zeros(3, 2, dtype=torch.int64), "int64"),
        (torch.tensor([[1.0, math.nan], [0.0, 0.0]]), "1 steps with NaN"),
        (torch.tensor([[1.0, math.inf], [-math.inf, 0.0]]), "2 steps with NaN"),
    ],
    ids=str,
)
def test_what_a_loop_must_return(returned, message):
    with pytest.raises(ValueError, match=message):
        once(lambda *_: returned, "data", case(), 0, Design())


def test_a_trial_needs_runs():
    with pytest.raises(ValueError, match="0 runs"):
        trial(loop, "data", case(), runs=0, seed=0, design=Design())
