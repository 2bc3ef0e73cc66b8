import math
import time

import numpy as np
import pytest
from scipy.stats import binom, norm

from audits import bounds
from audits.bounds import (
    gaussian,
    gaussian_one_run,
    rejects_claim,
    rejects_claim_one_run,
    subsampled,
    subsampled_one_run,
)
from audits.claimed_curve import _edge
from audits.gaussian_dp import epsilon_of, mu_of
from audits.intervals import upper
from audits.trade_off import epsilon_of_claim, ever_drawn, trade_off

CLAIM = {"rate": 0.1, "steps": 50}


@pytest.mark.parametrize("steps", [1, 100])
@pytest.mark.parametrize(
    "counts", [(1000, 100, 75), (1000, 1000, 1000), (1000, 1000, 600), (100_000, 1510, 1439)]
)
def test_one_run_without_subsampling_is_the_gaussian_bound(
    counts: tuple[int, int, int], steps: int
) -> None:
    one = dict(zip(("canaries", "guesses", "correct"), counts, strict=True), delta=1e-5)
    found, known = subsampled_one_run(**one, rate=1.0, steps=steps), gaussian_one_run(**one)
    assert 0.99 * known.epsilon < found.epsilon < known.epsilon
    assert 0.99 * known.ceiling < found.ceiling < known.ceiling
    assert math.sqrt(steps) / found.sigma == pytest.approx(known.mu, rel=5e-3)
    assert found.counts == known.counts and found.mu is None


@pytest.mark.parametrize("steps", [1, 100])
@pytest.mark.parametrize("counts", [(900, 10), (500, 1), (691, 309), (1000, 0), (990, 800)])
def test_many_runs_without_subsampling_are_the_gaussian_bound(
    counts: tuple[int, int], steps: int
) -> None:
    many = {"tp": counts[0], "fp": counts[1], "n_in": 1000, "n_out": 1000, "delta": 1e-5}
    found, known = subsampled(**many, rate=1.0, steps=steps), gaussian(**many)
    assert 0.99 * known.epsilon < found.epsilon < known.epsilon
    assert 0.99 * known.ceiling < found.ceiling <= known.ceiling
    assert math.sqrt(steps) / found.sigma == pytest.approx(known.mu, rel=5e-3)


def test_the_bound_is_the_edge_of_what_is_rejected() -> None:
    one = {"canaries": 1000, "guesses": 100, "correct": 85, **CLAIM}
    sigma = subsampled_one_run(**one, delta=1e-5).sigma
    assert rejects_claim_one_run(**one, noise_multiplier=sigma)
    assert rejects_claim_one_run(**one, noise_multiplier=1.5 * sigma)
    assert not rejects_claim_one_run(**one, noise_multiplier=0.998 * sigma)
    many = {"tp": 300, "fp": 100, "n_in": 1000, "n_out": 900, **CLAIM}
    bound = subsampled(**many, delta=1e-5)
    assert rejects_claim(**many, noise_multiplier=bound.sigma)
    assert rejects_claim(**many, noise_multiplier=1.5 * bound.sigma)
    assert not rejects_claim(**many, noise_multiplier=0.998 * bound.sigma)
    assert bound.epsilon == epsilon_of_claim(0.1, 50, bound.sigma, 1e-5)


def test_rates_are_taken_at_their_limits() -> None:
    many = {"tp": 300, "fp": 100, "n_in": 1000, "n_out": 900}
    for sigma in (1.0, 1.5, 1.53, 1.56, 1.58, 1.61, 3.0):  # the edge is at 1.566
        slow = upper(700, 1000, 0.025) < trade_off(0.1, 50, sigma)(float(upper(100, 900, 0.025)))
        assert rejects_claim(**many, **CLAIM, noise_multiplier=sigma) == slow


def test_one_run_against_the_whole_recursion() -> None:
    m, r, v, alpha = 400, 80, 62, 0.05
    for sigma in np.linspace(0.8, 4, 9):
        f = trade_off(0.1, 50, sigma)
        h, g = alpha * (r - v) / m, alpha * v / m
        for i in range(v - 1, -1, -1):  # neither early stop
            new = max(h, f(1 - min(g, 1.0)))
            g += i / (r - i) * (new - h)
            h = new
        claim = {"canaries": m, "guesses": r, "correct": v, **CLAIM, "noise_multiplier": sigma}
        assert rejects_claim_one_run(**claim) == (g + h > r / m)


def test_the_gaussian_shape_contradicts_a_claim_that_is_met() -> None:
    """A rare record that is seen well has a heavy tail, from which mu is far too large."""
    sigma, rate, n, delta = 0.5, 0.02, 10**6, 0.01
    claim = {"rate": rate, "steps": 1}
    # The attack "above 2", four deviations, at its expected counts.
    fpr = norm.sf(4)
    tpr = (1 - rate) * fpr + rate * norm.sf(2)
    many = {"tp": round(n * tpr), "fp": round(n * fpr), "n_in": n, "n_out": n}
    assert not rejects_claim(**many, **claim, noise_multiplier=sigma)
    truth = epsilon_of_claim(rate, 1, sigma, delta)
    assert subsampled(**many, **claim, delta=delta).epsilon <= truth
    assert gaussian(**many, delta=delta).epsilon > 2 * truth > 0


def test_bounds_grow_with_what_is_right() -> None:
    one = [
        subsampled_one_run(canaries=300, guesses=100, correct=v, **CLAIM, delta=1e-5)
        for v in (0, 60, 70, 90, 100)
    ]
    assert [it.epsilon for it in one] == sorted(it.epsilon for it in one)
    assert one[0].epsilon == 0 and one[0].sigma == math.inf
    assert one[-1].epsilon == one[-1].ceiling == one[0].ceiling > 0
    many = [
        subsampled(tp=tp, fp=20, n_in=200, n_out=200, **CLAIM, delta=1e-5)
        for tp in (20, 60, 100, 150)
    ]
    assert [it.epsilon for it in many] == sorted(it.epsilon for it in many)
    assert many[0].epsilon == 0 < many[1].epsilon


def test_a_smaller_alpha_gives_a_smaller_bound() -> None:
    one = {"canaries": 500, "guesses": 100, "correct": 90, **CLAIM, "delta": 1e-5}
    many = {"tp": 60, "fp": 5, "n_in": 100, "n_out": 100, **CLAIM, "delta": 1e-5}
    for method, counts in ((subsampled_one_run, one), (subsampled, many)):
        assert method(**counts, alpha=0.01).epsilon < method(**counts, alpha=0.1).epsilon


def test_counts_that_no_noise_explains() -> None:
    """Seen in 9 runs of 10, where a record takes part in 15 % of them."""
    many = {"tp": 900, "fp": 10, "n_in": 1000, "n_out": 1000, "rate": 0.01, "steps": 16}
    bound = subsampled(**many, delta=1e-5)
    assert (bound.sigma, bound.epsilon) == (0.0, math.inf)
    assert "took part more often" in bound.reasons[0]
    assert rejects_claim(**many, noise_multiplier=0.05)
    # Exactly what a record leaves that takes part in 15 % of the runs is explained.
    share = -math.expm1(16 * math.log1p(-0.01))
    fair = subsampled(**{**many, "tp": round(1000 * share), "fp": 0}, delta=1e-5)
    assert 0 < fair.epsilon < math.inf and not fair.reasons


def test_at_delta_zero_the_bound_is_nothing_or_everything() -> None:
    many = {"n_in": 100, "n_out": 100, **CLAIM, "delta": 0}
    assert subsampled(tp=90, fp=5, **many).epsilon == math.inf
    assert subsampled(tp=50, fp=50, **many).epsilon == 0


def test_copies_are_refused() -> None:
    bound = subsampled(tp=60, fp=5, n_in=100, n_out=100, **CLAIM, delta=1e-5)
    assert bounds.per_record(bound, 1).epsilon == bound.epsilon
    with pytest.raises(ValueError, match="copies is 4 and the bound is 'subsampled'"):
        bounds.per_record(bound, 4)


@pytest.mark.parametrize("edge", [-2800, -2790, 0, 1, 31, 32, 33, 700, 5000])
@pytest.mark.parametrize("start", [-2800, 0, 32, 4000])
def test_the_search_finds_the_edge(edge: int, start: int) -> None:
    assert _edge(lambda i: i >= edge, start, 5000) == edge


def test_the_search_without_an_edge() -> None:
    assert _edge(lambda i: False, 3, 5000) is None
    assert _edge(lambda i: True, 3, 5000) == -2800


def test_a_weak_attack_on_a_strong_claim() -> None:
    """Noise far above the sensitivity is still told from the next, until mu is next to nothing."""
    many = {"tp": 505_000, "fp": 495_000, "n_in": 10**6, "n_out": 10**6, "delta": 1e-5}
    found, known = subsampled(**many, rate=0.5, steps=4), gaussian(**many)
    assert found.epsilon == pytest.approx(known.epsilon, rel=0.02)
    assert found.sigma > 30
    assert mu_of(known.epsilon, 1e-5) == pytest.approx(known.mu, rel=1e-6)


def test_a_claim_is_judged_in_moments() -> None:
    one = {"canaries": 10**5, "guesses": 10**4, "correct": 8000, "rate": 0.02, "steps": 777}
    begun = time.process_time()
    assert rejects_claim_one_run(**one, noise_multiplier=3.0)
    assert time.process_time() - begun < 2  # a tenth of a second where nothing else runs


@pytest.mark.parametrize("claim", [(0.3, 10, 1.2), (1.0, 4, 2.0)])
def test_a_claim_that_is_met_is_rejected_in_alpha_of_audits(
    claim: tuple[float, int, float],
) -> None:
    """Exactly, over all counts: an attack on the curve itself, with the rates known."""
    rate, steps, sigma = claim
    n, fpr = 150, 0.2
    fnr = trade_off(*claim)(fpr)
    named = {"rate": rate, "steps": steps, "noise_multiplier": sigma}
    false = sum(
        binom.pmf(tp, n, 1 - fnr) * binom.pmf(fp, n, fpr)
        for tp in range(n + 1)
        for fp in range(n + 1)
        if rejects_claim(tp=tp, fp=fp, n_in=n, n_out=n, **named)
    )
    assert 1e-4 < false <= 0.05


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0.0}, {"rate": 1.5}, {"rate": math.nan}, {"steps": 0}, {"delta": 1.0}, {"alpha": 0}],
)
def test_impossible_arguments(wrong: dict[str, float]) -> None:
    one = {"canaries": 20, "guesses": 10, "correct": 8, **CLAIM, "delta": 1e-5, **wrong}
    many = {"tp": 9, "fp": 1, "n_in": 10, "n_out": 8, **CLAIM, "delta": 1e-5, **wrong}
    for method, arguments in ((subsampled_one_run, one), (subsampled, many)):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*expected"):
            method(**arguments)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_impossible_noise(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma is"):
        rejects_claim(tp=9, fp=1, n_in=10, n_out=8, **CLAIM, noise_multiplier=sigma)
    with pytest.raises(ValueError, match="sigma is"):
        rejects_claim_one_run(canaries=20, guesses=10, correct=8, **CLAIM, noise_multiplier=sigma)
    with pytest.raises(ValueError, match="tp is 11"):
        rejects_claim(tp=11, fp=1, n_in=10, n_out=8, **CLAIM, noise_multiplier=1.0)


def test_epsilon_of_the_reported_noise_is_what_a_claim_would_say() -> None:
    bound = subsampled(tp=800, fp=100, n_in=1000, n_out=1000, rate=1.0, steps=9, delta=1e-5)
    assert bound.epsilon == pytest.approx(epsilon_of(3 / bound.sigma, 1e-5), rel=2e-3)


def test_a_perfect_attack_misses_what_never_took_part() -> None:
    """A ceiling for all canaries would call every claim testable, whatever q and T."""
    design = {"n_in": 500, "n_out": 500, "rate": 0.046, "steps": 22, "delta": 1e-5}
    seen = subsampled(tp=250, fp=2, **design)  # type: ignore[arg-type]
    assert math.isfinite(seen.ceiling)
    typical = round(500 * ever_drawn(0.046, 22))
    perfect = subsampled(tp=typical, fp=0, **design)  # type: ignore[arg-type]
    assert seen.ceiling < 1.5 * perfect.epsilon
    assert seen.ceiling > perfect.epsilon


def test_a_perfect_guesser_cannot_tell_who_never_took_part_from_who_is_out() -> None:
    q, steps, r = 0.02, 20, 100
    seen = subsampled_one_run(canaries=1000, guesses=r, correct=80, rate=q, steps=steps, delta=1e-5)
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        coins = rng.integers(0, 2, 1000) == 1
        drawn = coins & (rng.random(1000) < ever_drawn(q, steps))
        unseen = rng.permutation(np.flatnonzero(~drawn))[: r // 2]
        found.append(r // 2 + int((~coins[unseen]).sum()))
    best = subsampled_one_run(
        canaries=1000,
        guesses=r,
        correct=int(np.quantile(found, 0.95)),
        rate=q,
        steps=steps,
        delta=1e-5,
    )
    assert seen.ceiling == pytest.approx(best.epsilon, rel=0.1)
