"""Exposures of what was never trained on: their law, and the test of it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp, kstest, kstwo

from audits import exposure
from audits.exposure import exact, mean, null_mean, null_test, sampled

losses = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30)


def naive_null_mean(references: int) -> float:
    """The mean of `log2 N - log2 rank`, which is negative for the last rank of N + 1."""
    ranks = np.arange(1, references + 2)
    return float(np.mean(math.log2(references) - np.log2(ranks)))


def test_counting_the_secret_among_the_references_lifts_the_mean() -> None:
    for n, expected in [(9, 0.990819), (99, 1.381707), (999, 1.434943), (9999, 1.441754),
                        (65535, 1.442531)]:  # fmt: skip
        assert naive_null_mean(n) == pytest.approx(expected, abs=1e-6)
        assert null_mean(n) - naive_null_mean(n) == pytest.approx(math.log2((n + 1) / n))


def tied(ties: str, share: float, n: int) -> tuple[float, float]:
    """Mean exposure and P(at least log2 20) if each score is the worst one with that probability.

    Summed over all numbers of references that are the worst, and all ranks of the secret.
    """
    mean = tail = 0.0
    for worst in range(n + 1):
        below = n - worst
        first = {"worst": [n], "mid": [below + worst / 2], "best": [below]}
        among = np.array(first.get(ties, range(below, n + 1)))
        for probability, k in ((share, among), (1 - share, np.arange(below + 1.0))):
            bits = np.log2((n + 1) / (1 + k))
            weight = binom.pmf(worst, n, share) * probability
            mean += weight * bits.mean()
            tail += weight * (bits >= math.log2(20)).mean()
    return mean, tail


@pytest.mark.parametrize(
    ("ties", "simulated", "above"),
    [("worst", 0.69, 0.045), ("mid", 1.26, 0.041), ("best", 2.57, 0.045), ("random", 1.41, 0.048)],
)
def test_ties_under_the_null(ties: str, simulated: float, above: float) -> None:
    # 80 % of scores are the worst possible one, as error rates of untrained strings are.
    expected, tail = tied(ties, 0.8, 200)
    assert expected == pytest.approx(simulated, abs=0.06)  # simulations of some 2,000 secrets
    assert tail == pytest.approx(above, abs=0.01)
    if ties == "best":  # chance looks like memorization: no such rule here
        with pytest.raises(ValueError, match="look like memorization"):
            sampled(0.0, [1.0], ties=ties)
        return
    rng = np.random.default_rng(2)
    bits = [
        float(sampled(s[0], s[1:], ties=ties, rng=rng).bits)
        for s in np.where(rng.random((3000, 201)) < 0.8, 1.0, rng.random((3000, 201)))
    ]
    error = np.std(bits) / math.sqrt(len(bits))
    assert np.mean(bits) == pytest.approx(expected, abs=3.3 * error)
    assert np.mean(np.array(bits) >= math.log2(20)) == pytest.approx(tail, abs=0.013)


def test_shared_references_hardly_widen_the_mean() -> None:
    n, canaries = 1000, 20
    bits = np.log2((n + 1) / np.arange(1, n + 2))
    alone = bits.var()
    # Two canaries among the same references: each pair of ranks once, equal ranks twice.
    pairs = (bits.sum() ** 2 + (bits**2).sum()) / ((n + 1) * (n + 2))
    together = (alone + (canaries - 1) * (pairs - bits.mean() ** 2)) / canaries
    assert math.sqrt(alone / canaries) == pytest.approx(0.3177, abs=1e-4)
    assert math.sqrt(together) == pytest.approx(0.3179, rel=0.01)
    rng = np.random.default_rng(3)
    means = [sampled(rng.random(canaries), rng.random(n)).bits.mean() for _ in range(2000)]
    assert np.std(means) == pytest.approx(math.sqrt(together), rel=0.06)


@given(losses, losses, st.sampled_from(["worst", "mid", "random"]))
def test_null_test_is_that_of_two_samples(
    scores: list[float], references: list[float], ties: str
) -> None:
    found = null_test(sampled(scores, references, ties=ties, rng=0))
    try:
        assert found == pytest.approx(ks_2samp(scores, references, method="exact").pvalue)
    except RuntimeWarning:  # 1 + 1e-16
        assert found == 1
        assert ks_2samp(scores, references, method="asymp").pvalue > 0.999


@settings(deadline=None)
@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=40), st.data())
def test_null_test_in_a_whole_space(space: list[float], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.sampled_from(space), min_size=1, max_size=12))
    apart = 0.0
    for value in space:
        for side in (np.less, np.less_equal):
            apart = max(apart, abs(side(scores, value).mean() - side(space, value).mean()))
    assert null_test(exact(scores, space)) == pytest.approx(kstwo.sf(apart, len(scores)))


def test_null_test_of_bare_bits() -> None:
    rng = np.random.default_rng(4)
    found = sampled(rng.random(40), rng.random(999))
    assert null_test(found.bits, 999) == pytest.approx(null_test(found))
    # Many references: as good as infinitely many, an exponential law.
    far = sampled(rng.random(40), rng.random(10**6))
    assert null_test(far.bits, 0) == pytest.approx(null_test(far), abs=0.01)
    assert null_test(far.bits, 10**6) == null_test(far)
    assert null_test(mean([2.0, 3.0]).bits, 0) == pytest.approx(2 * 2.0**-2.5, abs=1e-9)


def test_null_test_of_many_canaries_among_many_references() -> None:
    rng = np.random.default_rng(8)
    scores, references = rng.random(2000), rng.random(60_000)  # beyond the exact law
    asymptotic = null_test(sampled(scores, references))
    assert asymptotic == pytest.approx(kstest(scores, "uniform").pvalue, abs=0.1)
    assert asymptotic > 0.01 and null_test(sampled(scores - 0.1, references)) < 1e-9


@pytest.mark.parametrize("space", [False, True])
def test_null_test_is_uniform_under_the_null(space: bool) -> None:
    # 100 canaries share 200 references: as if those were exact, a tenth of p-values were below .05.
    rng = np.random.default_rng(5)
    found = []
    for _ in range(400):
        scores, references = rng.random(100), rng.random(200)
        if space:
            references = rng.random(5000)
            scores = references[rng.choice(5000, 100, replace=False)]
            found.append(null_test(exact(scores, references)))
        else:
            found.append(null_test(sampled(scores, references)))
    assert kstest(found, "uniform").pvalue > 1e-3


def test_null_test_holds_with_ties() -> None:
    rng = np.random.default_rng(6)
    found = []
    for _ in range(300):
        s = np.where(rng.random(230) < 0.8, 1.0, rng.random(230))
        found.append(null_test(sampled(s[:30], s[30:])))
    assert np.mean(np.array(found) < 0.05) <= 0.05


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_null_test_sees_either_direction(shift: float) -> None:
    rng = np.random.default_rng(7)
    scores, references = rng.standard_normal(60) + shift, rng.standard_normal(1000)
    assert null_test(sampled(scores, references)) < 1e-4
    assert null_test(exact(scores, np.concatenate([scores, references]))) < 1e-3
    assert null_test(sampled(scores, references).bits, 1000) < 1e-4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: null_test([1.0]), "references is missing"),
        (lambda: null_test([1.0, math.nan], 0), "1 NaN"),
        (lambda: null_test([], 0), "exposures is empty"),
        (lambda: null_test([1.0], -1), "references is -1"),
        (lambda: null_test([1.3], 9), "no rank among 9 references"),
        (lambda: null_test([5.0], 9), "no rank among 9 references"),
        (lambda: null_test([1.0, -1.0], 9), "below 0, as -1"),
        (lambda: null_test([1.0, -1.0], 0), "below 0, as -1"),
        (lambda: null_test([math.inf], 9), "no rank among 9 references"),
        (lambda: null_test(mean([1.0, 2.0])), "method 'mean, BCa' have no ranks"),
        (
            lambda: null_test(exposure.stratified([1.0], [1.0], [3], [3])),
            "'sampled by length, worst ties' have no ranks",
        ),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
