"""The judgement of declared guesses and thresholds, and what flipped coins make of it."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from audits.bounds import Bound, clopper_pearson, steinke
from audits.declaration import Declaration
from audits.intervals import wilson
from audits.judgement import FLIPS, decide, guess

DELTA, ALPHA = 1e-5, 0.05


def declared(coins: NDArray[np.bool_], **changes: Any) -> Declaration:
    n = len(coins)
    plain: dict[str, Any] = {
        "attack": "score",
        "sign": 1,
        "ids": tuple(map(str, range(n))),
        "coins": tuple(coins.tolist()),
        "repetitions": (1,) * n,
        "alpha": ALPHA,
        "delta": DELTA,
        "guesses": 100,
    }
    return Declaration(**plain | changes)


def one_run(canaries: int, guesses: int, correct: int) -> Bound:
    return steinke(canaries=canaries, guesses=guesses, correct=correct, delta=DELTA, alpha=ALPHA)


def trials(tp: int, fp: int, n_in: int, n_out: int) -> Bound:
    return clopper_pearson(tp=tp, fp=fp, n_in=n_in, n_out=n_out, delta=DELTA, alpha=ALPHA)


def run(mu: float, seed: int, n: int = 1000) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    coins = rng.integers(0, 2, n) == 1
    return coins, mu * coins + rng.standard_normal(n)


def counted_by_hand(coins: NDArray[np.bool_], scores: NDArray[np.float64], r: int) -> int:
    ranked = sorted(range(len(scores)), key=lambda i: scores[i])
    return sum(not coins[i] for i in ranked[: r // 2]) + sum(
        bool(coins[i]) for i in ranked[-(r // 2) :]
    )


@pytest.mark.parametrize("seed", range(5))
def test_guesses_are_counted_as_by_hand(seed: int) -> None:
    coins, scores = run(2.0, seed)
    seen = guess(declared(coins), scores, one_run)
    right = counted_by_hand(coins, scores, 100)
    assert seen.bound == one_run(1000, 100, right)
    assert seen.bound.counts["correct"] > 90
    assert seen.coin_p == 1 / (FLIPS + 1)


def test_canaries_inserted_more_often_are_left_out() -> None:
    coins, scores = run(2.0, 0, 400)
    repetitions = (1,) * 300 + (4,) * 100
    seen = guess(declared(coins, repetitions=repetitions), scores, one_run)
    assert seen.bound == one_run(300, 100, counted_by_hand(coins[:300], scores[:300], 100))
    threshold = declared(coins, repetitions=repetitions, guesses=None, threshold=1.0)
    counts = decide(threshold, scores, trials).bound.counts
    assert counts["n_in"] + counts["n_out"] == 300


def test_trials_are_counted_as_by_hand() -> None:
    coins, scores = run(2.0, 0)
    seen = decide(declared(coins, guesses=None, threshold=1.0), scores, trials)
    tp = sum(bool(c) and s > 1 for c, s in zip(coins, scores, strict=True))
    fp = sum(not c and s > 1 for c, s in zip(coins, scores, strict=True))
    assert seen.bound == trials(tp, fp, int(coins.sum()), int((~coins).sum()))
    assert seen.coin_p == 1 / (FLIPS + 1)


def test_a_threshold_on_a_loss_is_one_on_the_loss() -> None:
    coins, scores = run(2.0, 0)
    declaration = declared(coins, guesses=None, threshold=-1.0, sign=-1)
    losses = dict(zip(declaration.ids, (-scores).tolist(), strict=True))
    joined = declaration.join(losses, attack="score", sign=-1)
    plain = decide(declared(coins, guesses=None, threshold=1.0), scores, trials)
    assert decide(declaration, joined, trials) == plain


@pytest.mark.parametrize("way", ["guess", "decide"])
def test_under_the_null_the_p_value_is_uniform(way: str) -> None:
    p_values = []
    for seed in range(200):
        coins, scores = run(0.0, seed, 200)
        if way == "guess":
            seen = guess(declared(coins, guesses=60), scores, one_run)
        else:
            seen = decide(declared(coins, guesses=None, threshold=0.5), scores, trials)
        p_values.append(seen.coin_p)
    for level in (0.1, 0.5):
        low, _ = wilson(sum(p <= level for p in p_values), len(p_values), 1e-3)
        assert low <= level
    assert 0.4 < np.mean(p_values) < 0.65  # ties between counts push it up


@pytest.mark.parametrize("way", ["guess", "decide"])
def test_chance_fires_at_most_as_often_as_declared(way: str) -> None:
    """A property of the bound and the design; the model, here a good attack, has no part in it."""
    coins, scores = run(4.0, 1)
    if way == "guess":
        seen = guess(declared(coins), scores, one_run)
        first = next(v for v in range(101) if one_run(1000, 100, v).epsilon > 0)
        expected = float(binom.sf(first - 1, 100, 0.5))
        low, high = wilson(round(seen.fired * FLIPS), FLIPS, 1e-3)
        assert low <= expected <= high
    else:
        seen = decide(declared(coins, guesses=None, threshold=2.0), scores, trials)
    assert seen.bound.epsilon > 0
    assert seen.fired <= ALPHA


def test_what_chance_fires_on_agrees_with_the_bound_itself() -> None:
    """The quick look at the error rates is the same question as "is the bound above 0"."""
    from audits.judgement import _Counts, _tells_apart

    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = _Counts(int(rng.integers(0, 51)), int(rng.integers(0, 51)), 50, 50)
        above = partial(clopper_pearson, delta=0.0, alpha=ALPHA)
        bound = above(tp=counts.tp, fp=counts.fp, n_in=50, n_out=50).epsilon
        assert _tells_apart(counts, ALPHA) == (bound > 0)


def test_the_wrong_judgement_is_refused() -> None:
    coins, scores = run(1.0, 0)
    with pytest.raises(ValueError, match="use `decide`"):
        guess(declared(coins, guesses=None, threshold=1.0), scores, one_run)
    with pytest.raises(ValueError, match="use `guess`"):
        decide(declared(coins), scores, trials)


def test_coins_that_all_fell_alike_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match="10 of 10 canaries of repetition 1 are in"):
        declared(np.ones(10, dtype=bool), guesses=None, threshold=0.0)
