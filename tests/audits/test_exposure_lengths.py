"""Secrets of different numbers of tokens: what goes wrong, and what is done about it."""

import math

import numpy as np
import pytest
import torch

from audits.exposure import null_mean, null_test, sampled, stratified
from audits.intervals import lower, upper


def untrained(lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Summed losses of strings that no model was trained on: each token's loss is exponential."""
    return rng.gamma(lengths)


def test_longer_references_look_like_memorization_without_any_training() -> None:
    rng = np.random.default_rng(0)
    n, trials, bits, fair, p = 999, 1500, [], [], []
    for _ in range(trials):
        lengths = rng.integers(8, 11, n)
        loss, references = untrained(np.full(1, 8), rng), untrained(lengths, rng)
        bits.append(float(sampled(loss, references).bits[0]))
        found = stratified(loss, references, [8], lengths)
        fair.append(float(found.bits[0]))
        p.append(float(found.p_value[0]))
    error = np.std(bits) / math.sqrt(trials)  # .04
    assert np.mean(bits) == pytest.approx(1.862, abs=3.3 * error)
    assert np.mean(bits) > null_mean(n) + 5 * error
    assert np.mean(fair) == pytest.approx(null_mean(333), abs=3.3 * error)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_the_null_test_sees_unequal_lengths_before_training() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(8, 11, 1000)
    loss, references = untrained(np.full(200, 8), rng), untrained(lengths, rng)
    assert null_test(sampled(loss, references)) < 1e-5
    assert null_test(sampled(loss, references[lengths == 8])) > 0.01


@pytest.mark.parametrize("ties", ["worst", "mid"])
def test_strata_are_ranked_by_themselves(ties: str) -> None:
    rng = np.random.default_rng(2)
    lengths, theirs = rng.integers(2, 5, (6, 3)), rng.integers(2, 6, 400)
    scores = rng.integers(0, 20, (6, 3)).astype(float)
    references = rng.integers(0, 20, 400).astype(float)
    found = stratified(torch.tensor(scores), references, lengths, theirs, ties=ties, alpha=0.1)
    assert found.bits.shape == (6, 3)
    for at in np.ndindex(6, 3):
        pool = references[theirs == lengths[at]]
        alone = sampled(scores[at], pool, ties=ties, alpha=0.1)
        for name in ("bits", "low", "high", "p_value"):
            assert getattr(found, name)[at] == pytest.approx(getattr(alone, name))
        assert found.counts["references"][at] == len(pool)
        assert found.counts["below"][at] == (pool < scores[at]).sum()
        assert found.counts["tied"][at] == (pool == scores[at]).sum()
    most = max(int((theirs == length).sum()) for length in np.unique(lengths))
    assert found.ceiling == pytest.approx(math.log2(most + 1))
    assert "own number of tokens" in found.assumptions[-1]


def test_one_length_is_as_sampled_and_intervals_are_those_of_the_stratum() -> None:
    rng = np.random.default_rng(3)
    scores, references = rng.random(20), rng.random(500)
    plain = sampled(scores, references, ties="random", rng=5)
    found = stratified(scores, references, np.full(20, 7), np.full(500, 7), ties="random", rng=5)
    for name in ("bits", "low", "high", "p_value"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name))
    one = stratified(0.5, [0.0] * 30 + [1.0] * 70 + [0.0] * 900, 8, [8] * 100 + [9] * 900)
    assert isinstance(one.bits, float)
    assert one.low == pytest.approx(-math.log2(upper(30, 100, 0.025)))
    assert one.high == pytest.approx(-math.log2(lower(30, 100, 0.025)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: stratified([1.0, 2.0], [1.0], [8, 9], [9]), "No reference has 8 tokens"),
        (lambda: stratified([1.0, 2.0], [1.0], [8], [8]), r"lengths have shape \(1,\)"),
        (lambda: stratified([1.0], [1.0], [8], [8, 8]), r"reference_lengths have shape \(2,\)"),
        (lambda: stratified([math.nan], [1.0], [8], [8]), "loss has 1 NaN"),
        (lambda: stratified([1.0], [1.0], [math.nan], [8]), "lengths has 1 NaN"),
        (lambda: stratified([1.0], [1.0], [8], [8], ties="random"), "needs rng"),
        (lambda: stratified([1.0], [1.0], [8], [8], alpha=1.0), "alpha is 1.0"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
