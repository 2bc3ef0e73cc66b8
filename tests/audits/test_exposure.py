import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2, kstest

from audits import exposure, skewnormal
from audits.exposure import exact, extrapolated, mean, sampled
from audits.intervals import lower, upper, wilson

losses = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30)


def slow_rank(loss: float, references: list[float], ties: str) -> float:
    below = sum(r < loss for r in references)
    tied = sum(r == loss for r in references)
    return 1 + below + {"worst": tied, "mid": tied / 2}[ties]


@given(losses, losses, st.sampled_from(["worst", "mid"]))
def test_sampled_against_counting(scores: list[float], references: list[float], ties: str) -> None:
    found = sampled(scores, references, ties=ties)
    n = len(references)
    ranks = [slow_rank(score, references, ties) for score in scores]
    assert found.bits == pytest.approx([math.log2((n + 1) / rank) for rank in ranks])
    worst = [slow_rank(score, references, "worst") for score in scores]
    assert found.p_value == pytest.approx([rank / (n + 1) for rank in worst])
    assert found.ceiling == math.log2(n + 1)
    assert (found.bits <= found.ceiling).all()


@given(losses, losses, st.floats(0.001, 0.99))
def test_ties_are_ordered_and_inside_their_interval(
    scores: list[float], references: list[float], alpha: float
) -> None:
    worst, mid = (sampled(scores, references, ties=t, alpha=alpha) for t in ("worst", "mid"))
    random = sampled(scores, references, ties="random", alpha=alpha, rng=0)
    assert (worst.bits <= mid.bits).all()
    assert (worst.bits <= random.bits).all()
    for found in (worst, mid, random):
        assert (found.low >= 0).all()
        assert (found.low <= found.bits).all()
        assert (found.bits <= found.high).all()
    assert 2.0**-worst.bits == pytest.approx(worst.p_value)
    assert 2.0**-random.bits == pytest.approx(random.p_value)
    assert mid.p_value == pytest.approx(worst.p_value)


def test_sampled_interval_is_clopper_pearson_s() -> None:
    references = np.arange(1000.0)
    found = sampled([99.5, -1.0], references)
    assert found.bits[0] == pytest.approx(math.log2(1001 / 101))
    assert found.low[0] == pytest.approx(-math.log2(upper(100, 1000, 0.025)))
    assert found.high[0] == pytest.approx(-math.log2(lower(100, 1000, 0.025)))
    assert found.high[1] == math.inf
    assert "1 of 2 canaries" in found.reasons[0]
    assert sampled([-1.0], references, space=2**12).high == 12
    # Ties not counted against the secret: the interval allows for either side of them.
    tied = sampled(1.0, [0.0] * 50 + [1.0] * 50 + [2.0] * 900, ties="mid")
    assert tied.low == pytest.approx(-math.log2(upper(100, 1000, 0.025)))
    assert tied.high == pytest.approx(-math.log2(lower(50, 1000, 0.025)))
    assert sampled([-1.0], references, space=2**9).bits == 9


@pytest.mark.parametrize(
    "kind", [float, np.float32, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)]
)
def test_a_number_gives_numbers(kind) -> None:
    candidates = torch.arange(2000.0).bfloat16().unique()
    for found in (
        sampled(kind(5.0), [1.0, 2.0, 9.0]),
        exact(kind(5.0), candidates),
        extrapolated(kind(5.0), np.random.default_rng(0).normal(9, 2, 1000), space=100),
    ):
        for value in (found.bits, found.low, found.high, found.p_value):
            assert isinstance(value, float)
            assert np.shape(value) == ()


@given(st.integers(1, 5), st.integers(1, 4))
def test_shapes_are_kept(rows: int, columns: int) -> None:
    scores = torch.rand(rows, columns)
    for found in (sampled(scores, torch.rand(9)), exact(scores, scores.reshape(-1))):
        for value in (found.bits, found.low, found.high, found.p_value):
            assert np.shape(value) == (rows, columns)


def test_exact_ranks() -> None:
    found = exact(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0, 2.0]))
    assert found.bits == pytest.approx([2, math.log2(4 / 3), 0])
    assert found.p_value == pytest.approx([0.25, 0.75, 1])
    assert (found.low == found.bits).all() and (found.high == found.bits).all()
    assert found.ceiling == 2 and found.valid
    assert found.counts["below"].tolist() == [0, 1, 3]
    assert found.counts["tied"].tolist() == [0, 1, 0]


def test_exact_says_when_the_secret_is_missing() -> None:
    found = exact([1.5, 2.0, 9.0], [1.0, 2.0, 3.0, 4.0])
    assert found.bits == pytest.approx([1, 1, 0])  # never more than if it were there
    assert not found.valid
    assert "2 of 3 losses" in found.reasons[0]


def test_exact_and_sampled_agree_on_a_whole_space() -> None:
    space = np.random.default_rng(0).standard_normal(1000)
    assert sampled(space[7], np.delete(space, 7)).bits == pytest.approx(exact(space[7], space).bits)


def test_random_ties_are_exactly_uniform_under_the_null() -> None:
    rng = np.random.default_rng(1)
    ranks = [
        round(20 * sampled(s[0], s[1:], ties="random", rng=rng).p_value)
        for s in rng.integers(0, 3, (4000, 20)).astype(float)
    ]
    counts = np.bincount(ranks, minlength=21)[1:]
    assert ((counts - 200) ** 2 / 200).sum() < chi2.ppf(0.999, 19)


def check_coverage(trials: int) -> None:
    rng = np.random.default_rng(3)
    for p in (0.5, 0.01, 0.001):
        k = rng.binomial(1000, p, trials)
        found = sampled(k - 0.5, np.arange(1000.0))  # k references lie below k - 1/2
        missed = (found.low > -math.log2(p)) | (found.high < -math.log2(p))
        assert wilson(int(missed.sum()), trials, 0.01)[0] <= 0.05


def test_interval_coverage() -> None:
    check_coverage(300)


@pytest.mark.slow
def test_interval_coverage_over_many_canaries() -> None:
    check_coverage(20_000)


def test_a_million_references_are_fast() -> None:
    rng = np.random.default_rng(4)
    references, scores = rng.standard_normal(10**6), rng.standard_normal(5000)
    start = time.perf_counter()
    found = sampled(scores, references)
    assert time.perf_counter() - start < 10  # seconds; a loop over canaries takes minutes
    assert found.bits[0] == pytest.approx(
        math.log2((10**6 + 1) / (1 + (references <= scores[0]).sum()))
    )


def test_extrapolated_recovers_a_known_tail() -> None:
    law = skewnormal.SkewNormal(2, 30, 4)
    references = skewnormal.sample(law, 2000, np.random.default_rng(5))
    scores = np.array([20.0, 25.0, 33.0, -500.0])
    found = extrapolated(scores, references, space=1e9)
    truth = np.minimum(-skewnormal.log_cdf(scores, law) / math.log(2), math.log2(1e9))
    assert found.valid
    assert found.bits[1:3] == pytest.approx(truth[1:3], rel=0.3)
    assert (found.low <= truth).all() and (truth <= found.high).all()
    assert found.bits[3] == found.ceiling == pytest.approx(29.897, abs=1e-3)
    assert found.p_value == pytest.approx(2.0**-found.bits)
    assert "more than 10 bits beyond" in found.reasons[0]
    again = extrapolated(scores, references, space=1e9)
    assert (again.low == found.low).all()


def assert_fallen_back(found: exposure.Exposure, loss: float, references, why: str) -> None:
    plain = sampled(loss, references)
    assert not found.valid
    assert why in found.reasons[0]
    assert found.bits == found.low == plain.low
    assert found.p_value == plain.p_value
    assert found.high <= math.log2(1e6)


def test_extrapolation_is_refused_where_the_fit_is_wrong() -> None:
    references = np.random.default_rng(6).uniform(10, 40, 1500)
    assert_fallen_back(extrapolated(9.0, references, 1e6), 9.0, references, "not skew-normal")
    # A fit that is rejected tells nothing, also where it happens to agree with sampling.
    mixed = np.concatenate([references, np.random.default_rng(6).uniform(10, 12, 800)])
    assert_fallen_back(extrapolated(25.0, mixed, 1e6), 25.0, mixed, "not skew-normal")


@pytest.mark.parametrize(
    "references", [np.arange(999.0), np.ones(1000), np.r_[np.arange(1000.0), math.inf]]
)
def test_extrapolation_is_refused_where_there_is_nothing_to_fit(references: np.ndarray) -> None:
    assert_fallen_back(extrapolated(0.5, references, 1e6), 0.5, references, "1000 finite")


@pytest.mark.parametrize(("shift", "loss", "below"), [(0.1, 0.0, 1000), (1.0, -2.8, 5)])
def test_extrapolation_is_checked_where_sampling_can_tell(
    monkeypatch: pytest.MonkeyPatch, shift: float, loss: float, below: int
) -> None:
    references = skewnormal.sample(skewnormal.SkewNormal(0, 0, 1), 2000, np.random.default_rng(7))
    assert (references < loss).sum() == pytest.approx(below, rel=0.4)
    wrong = skewnormal.SkewNormal(0, shift, 1)
    monkeypatch.setattr(skewnormal, "fit", lambda *_: wrong)
    monkeypatch.setattr(skewnormal, "bootstrap", lambda *_: (0.9, (wrong, wrong)))
    found = extrapolated(loss, references, 1e6)
    if below < 10:  # nothing to compare with
        assert found.valid
    else:
        assert_fallen_back(found, loss, references, "disagrees with sampling for 1")


def test_extrapolation_takes_many_references() -> None:
    references = skewnormal.sample(skewnormal.SkewNormal(1, 0, 1), 30_000, np.random.default_rng(8))
    start = time.perf_counter()
    found = extrapolated(np.array([-1.0, 0.0]), references, 1e6)
    assert time.perf_counter() - start < 30  # 2 seconds, and 200 refits by scipy minutes
    assert found.valid and found.counts["fitted"] == 10_000 and found.counts["references"] == 30_000


def test_null_means() -> None:
    for n, expected in [(9, 1.142822), (99, 1.396206), (999, 1.436386), (9999, 1.441898),
                        (65535, 1.442553), (0, 1.442695)]:  # fmt: skip
        assert exposure.null_mean(n) == pytest.approx(expected, abs=1e-6)
    for n in (1, 7, 50):  # the average over all ranks
        ranks = np.arange(1, n + 2)
        assert exposure.null_mean(n) == pytest.approx(np.log2((n + 1) / ranks).mean())


def test_null_quantiles_and_maximum() -> None:
    for n, expected in [(1, 4.32193), (5, 2.64115), (10, 2.26578), (50, 1.79388), (100, 1.68791)]:
        assert exposure.null_mean_quantile(n) == pytest.approx(expected, abs=6e-6)
    assert exposure.null_maximum(10) == pytest.approx(7.644, abs=5e-4)


def test_references_needed() -> None:
    for bits, n in [(5, 95), (8, 766), (10, 3067), (13, 24540), (16, 196327), (20, 3141252)]:
        assert exposure.references_needed(bits) == n
        assert -math.log2(upper(0, n, 0.05)) >= bits > -math.log2(upper(0, n - 1, 0.05))


def test_mean_of_a_group() -> None:
    rng = np.random.default_rng(9)
    group = sampled(rng.random(50), rng.random(2000))
    found = mean(group)
    assert found.bits == pytest.approx(group.bits.mean())
    assert found.low < found.bits < found.high
    statistic = 2 * math.log(2) * group.bits.sum()
    assert found.p_value == pytest.approx(chi2.sf(statistic, 100))
    assert found.valid and found.ceiling == pytest.approx(math.log2(2001))
    assert mean(group.bits).bits == found.bits
    parts = [dataclasses.replace(group, bits=b, p_value=p, low=b, high=b)
             for b, p in zip(group.bits, group.p_value, strict=True)]  # fmt: skip
    assert mean(parts).p_value == pytest.approx(found.p_value)
    assert (mean(parts).low, mean(parts).high) == (found.low, found.high)


def test_the_group_test_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(10)
    p = [mean(rng.exponential(1 / math.log(2), 5)).p_value for _ in range(100)]
    assert kstest(p, "uniform").pvalue > 0.01


def test_the_null_of_sampling_is_exponential() -> None:
    rng = np.random.default_rng(11)
    bits = sampled(rng.random(2000), rng.random(10_000)).bits
    assert bits.mean() == pytest.approx(1.442695, abs=0.12)
    assert bits.var() == pytest.approx(2.081369, rel=0.25)
    assert np.median(bits) == pytest.approx(1, abs=0.1)
    assert (bits >= 3).mean() == pytest.approx(1 / 8, abs=0.03)


def test_the_mean_of_equal_exposures_takes_the_canaries_intervals() -> None:
    top = sampled([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    found = mean(top)
    assert (found.bits, found.high) == (2, math.inf)
    assert found.low == pytest.approx(top.low[0])
    assert not found.valid and "equal exposures" in found.reasons[0]
    single = mean(sampled(2.5, np.arange(1000.0)))
    assert single.low < single.bits < single.high and not single.valid


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 9.0]), min_size=1, max_size=8))
def test_the_mean_of_few_values_stays_ordered(bits: list[float]) -> None:
    found = mean(bits)
    assert 0 <= found.low <= found.bits <= found.high <= 9


def test_the_mean_of_an_invalid_group_is_invalid() -> None:
    found = mean(exact([1.5, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0]))
    assert not found.valid and "not among the candidates" in found.reasons[0]


def test_exposures_of_the_same_hit_rate_agree_with_binomials() -> None:
    # P(exposure >= b) = 2^-b: 30 hits of 100 at 8 bits cannot be chance.
    assert binom.sf(29, 100, 2**-8) < 1e-30


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sampled(math.nan, [1.0]), "loss has 1 NaN"),
        (lambda: sampled(1.0, [1.0, math.nan]), "references has 1 NaN"),
        (lambda: exact(1.0, torch.tensor([1.0, math.nan])), "candidates has 1 NaN"),
        (lambda: extrapolated(math.nan, [1.0], 9), "loss has 1 NaN"),
        (lambda: mean([math.nan]), "exposures has 1 NaN"),
        (lambda: mean([]), "exposures is empty"),
        (lambda: sampled(1.0, []), "references is empty"),
        (lambda: sampled([], [1.0]), "loss is empty"),
        (lambda: sampled(1.0, 2.0), r"references have shape \(\); expected \[N\]"),
        (lambda: sampled(1.0, [[1.0], [2.0]]), r"references have shape \(2, 1\)"),
        (lambda: sampled(1.0, [1.0], ties="best"), "look like memorization"),
        (lambda: sampled(1.0, [1.0], ties="first"), "ties is 'first'; expected"),
        (lambda: sampled(1.0, [1.0], ties="random"), "needs rng"),
        (lambda: sampled(1.0, [1.0], alpha=0.0), "alpha is 0.0"),
        (lambda: sampled(1.0, [1.0], space=1), "space is 1"),
        (lambda: extrapolated(1.0, [1.0], math.nan), "space is nan"),
        (lambda: extrapolated(1.0, [1.0], math.inf), "space is inf"),
        (lambda: exposure.null_mean(-1), "references is -1"),
        (lambda: exposure.null_mean_quantile(0), "canaries is 0"),
        (lambda: exposure.references_needed(0), "bits is 0"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
