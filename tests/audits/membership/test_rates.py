import math

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from audits.membership import non_members_needed, tpr_at_fpr


def drawn(n_in: int, n_out: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(1, 1, n_in), rng.normal(size=n_out)])
    return scores, np.arange(n_in + n_out) < n_in


def planted(n_in: int, tp: int, n_out: int, fp: int):
    """Scores of which tp members and fp non-members lie above all others."""
    scores = np.zeros(n_in + n_out)
    scores[:n_in] = np.where(np.arange(n_in) < tp, 2.0, 0.0)
    scores[n_in:] = np.where(np.arange(n_out) < fp, 3.0, 1.0)
    return scores, np.arange(n_in + n_out) < n_in


def test_known_limits() -> None:
    found = tpr_at_fpr(*planted(1000, 100, 1000, 1), fpr=0.001)
    assert found.counts == {"n_in": 1000, "n_out": 1000, "tp": 100, "fp": 1}
    assert (found.threshold, found.fpr_realized, found.estimate) == (1.0, 0.001, 0.1)
    assert (found.low, found.high) == pytest.approx((0.082105, 0.120288), abs=1e-6)
    assert found.fpr_bound == pytest.approx(0.004735, abs=1e-6)
    assert found.fpr_low < 0.001 < found.fpr_bound < found.fpr_high


def test_known_sizes() -> None:
    assert non_members_needed(0.001) == 2995
    assert non_members_needed(0.01) == 299


def test_a_headline_that_is_not_resolved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"999 non-members.*at least 1000 .*, and 2995 with none"):
        tpr_at_fpr(*drawn(50, 999), fpr=0.001)
    with pytest.raises(ValueError, match=r"99 non-members.*at least 100 .*, and 299 with none"):
        tpr_at_fpr(*drawn(50, 99), fpr=0.01)
    resolved = tpr_at_fpr(*drawn(50, 100), fpr=0.01)
    assert resolved.counts["fp"] == 1
    assert "that takes 299" in resolved.reasons[0]
    assert tpr_at_fpr(*drawn(50, 299), fpr=0.01).reasons == ()


@pytest.mark.parametrize(("n_out", "fpr", "passed"), [(100, 0.29, 29), (250, 0.01, 2), (3, 0.4, 1)])
def test_the_threshold_against_a_loop(n_out: int, fpr: float, passed: int) -> None:
    scores, inside = drawn(80, n_out)
    fine = [t for t in scores[~inside] if (scores[~inside] > t).mean() <= fpr + 1e-12]
    found = tpr_at_fpr(scores, inside, fpr)
    assert found.threshold == min(fine)
    assert found.counts["fp"] == passed
    assert found.estimate == (scores[inside] > min(fine)).mean()


def test_ties_let_nobody_through_and_do_not_tighten_the_claim() -> None:
    scores, inside = drawn(100, 200)
    tied = tpr_at_fpr(np.round(scores), inside, 0.03)
    free = tpr_at_fpr(scores, inside, 0.03)
    assert tied.counts["fp"] < free.counts["fp"] == 6
    assert (tied.fpr_bound, tied.fpr_high) == (free.fpr_bound, free.fpr_high)
    assert "but for ties" in tied.reasons[0]
    assert tpr_at_fpr(np.zeros(300), inside, 0.05).estimate == 0


def test_the_limit_of_the_false_positive_rate_holds_for_the_chosen_threshold() -> None:
    """It is exact: the true rate beyond the (k+1)-th largest of n is Beta(k+1, n-k)."""
    hits = 0
    for seed in range(1000):
        scores, inside = drawn(2, 100, seed)
        found = tpr_at_fpr(scores, inside, 0.02, alpha=0.2)
        hits += norm.sf(found.threshold) <= found.fpr_bound
    low, high = binom.interval(1 - 1e-3, 1000, 0.8)
    assert low <= hits <= high
    assert found.fpr_bound == pytest.approx(beta.ppf(0.8, 3, 98))


@pytest.mark.parametrize(("n_out", "fp"), [(2995, 0), (10_000, 4)])
def test_certified_rates(n_out: int, fp: int) -> None:
    found = tpr_at_fpr(*drawn(100, n_out), fpr=0.001, certified=True)
    assert found.counts["fp"] == fp
    assert found.fpr_bound <= 0.001
    assert beta.ppf(0.95, fp + 2, n_out - fp - 1) > 0.001
    assert found.reasons == ()
    assert found.estimate <= tpr_at_fpr(*drawn(100, n_out), fpr=0.001).estimate


def test_too_few_to_certify() -> None:
    with pytest.raises(ValueError, match=r"2994 non-members cannot certify .* at least 2995"):
        tpr_at_fpr(*drawn(100, 2994), fpr=0.001, certified=True)


def test_the_bootstrap_of_both_sides_against_plain_resampling() -> None:
    scores, inside = drawn(200, 400)
    members, others, rng = scores[inside], scores[~inside], np.random.default_rng(1)
    rates = []
    for _ in range(4000):
        threshold = np.sort(rng.choice(others, 400))[-21]
        rates.append((rng.choice(members, 200) > threshold).mean())
    found = tpr_at_fpr(scores, inside, 0.05)
    assert found.boot_low == pytest.approx(np.quantile(rates, 0.025), abs=0.015)
    assert found.boot_high == pytest.approx(np.quantile(rates, 0.975), abs=0.015)
    assert found == tpr_at_fpr(scores, inside, 0.05)
    assert found.boot_high - found.boot_low > found.high - found.low  # the threshold moves too


def test_attacks_that_were_tried_share_alpha() -> None:
    shared = tpr_at_fpr(*drawn(100, 1000), fpr=0.01, n_tests=5)
    alone = tpr_at_fpr(*drawn(100, 1000), fpr=0.01, alpha=0.01)
    assert shared.n_tests == 5
    assert (shared.low, shared.fpr_high, shared.fpr_bound, shared.boot_low) == (
        alone.low,
        alone.fpr_high,
        alone.fpr_bound,
        alone.boot_low,
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tpr_at_fpr(*drawn(9, 9), fpr=0.0), "fpr is 0.0"),
        (lambda: tpr_at_fpr(*drawn(9, 9), fpr=1.0), "fpr is 1.0"),
        (lambda: tpr_at_fpr(*drawn(9, 9), fpr=0.5, alpha=1), "alpha is 1"),
        (lambda: tpr_at_fpr(*drawn(9, 9), fpr=0.5, n_tests=0), "n_tests is 0"),
        (lambda: tpr_at_fpr([math.nan], [True], fpr=0.5), "NaN"),
    ],
)
def test_bad_input_is_never_a_number(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
