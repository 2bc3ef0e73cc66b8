import dataclasses
import math

import pytest

from audits import bounds
from audits.gaussian_dp import epsilon_of


def test_a_bound_is_a_frozen_value() -> None:
    bound = bounds.steinke(canaries=100, guesses=50, correct=50, delta=1e-5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bound.epsilon = 1.0
    assert (bound.low, bound.high, bound.alpha) == (bound.epsilon, math.inf, 0.05)
    assert bound == bounds.steinke(canaries=100, guesses=50, correct=50, delta=1e-5)
    assert bound.valid and bound.assumptions and not bound.reasons


def test_arguments_have_names() -> None:
    with pytest.raises(TypeError):
        bounds.steinke(100, 50, 50, 1e-5)
    with pytest.raises(TypeError):
        bounds.gaussian(9, 1, 10, 10, 1e-5)


def test_a_smaller_alpha_gives_a_smaller_bound() -> None:
    one = {"canaries": 500, "guesses": 100, "correct": 90, "delta": 1e-5}
    many = {"tp": 90, "fp": 5, "n_in": 100, "n_out": 100, "delta": 1e-5}
    for method, counts in [
        (bounds.steinke, one),
        (bounds.gaussian_one_run, one),
        (bounds.clopper_pearson, many),
        (bounds.gaussian, many),
    ]:
        assert method(**counts, alpha=0.01).epsilon < method(**counts, alpha=0.1).epsilon


def test_gaussian_bounds_at_delta_zero_are_nothing_or_everything() -> None:
    many = {"n_in": 100, "n_out": 100, "delta": 0}
    assert bounds.gaussian(tp=90, fp=5, **many).epsilon == math.inf
    assert bounds.gaussian(tp=50, fp=50, **many).epsilon == 0


def test_per_record_divides_mu() -> None:
    bound = bounds.gaussian(tp=99, fp=1, n_in=100, n_out=100, delta=1e-5)
    one = bounds.per_record(dataclasses.replace(bound, mu=2.0, epsilon=epsilon_of(2, 1e-5)), 16)
    assert one.mu == 0.125
    assert one.epsilon == pytest.approx(0.434416, abs=1e-6)
    assert one.delta == 1e-5
    assert one.ceiling < bound.ceiling
    best = bounds.gaussian(tp=100, fp=0, n_in=100, n_out=100, delta=1e-5)
    assert bounds.per_record(best, 4).epsilon == pytest.approx(bounds.per_record(best, 4).ceiling)


def test_per_record_rescales_delta() -> None:
    pure = bounds.steinke(canaries=100, guesses=100, correct=90, delta=0)
    assert bounds.per_record(pure, 4).epsilon == pure.epsilon / 4
    assert bounds.per_record(pure, 4).delta == 0
    bound = bounds.steinke(canaries=100, guesses=100, correct=90, delta=1e-4)
    one = bounds.per_record(bound, 4)
    assert (one.epsilon, one.ceiling) == (bound.epsilon / 4, bound.ceiling / 4)
    assert one.delta * sum(math.exp(j * one.epsilon) for j in range(4)) == pytest.approx(1e-4)
    none = bounds.per_record(dataclasses.replace(bound, epsilon=0.0), 4)
    assert (none.epsilon, none.delta) == (0, 1e-4 / 4)


def test_per_record_of_one_copy_is_the_bound() -> None:
    for bound in (
        bounds.steinke(canaries=100, guesses=100, correct=90, delta=1e-4),
        bounds.gaussian(tp=99, fp=1, n_in=100, n_out=100, delta=1e-5),
        bounds.gaussian(tp=99, fp=1, n_in=100, n_out=100, delta=0),
    ):
        one = bounds.per_record(bound, 1)
        assert (one.epsilon, one.delta) == pytest.approx((bound.epsilon, bound.delta))
        assert one.ceiling == pytest.approx(bound.ceiling)
    with pytest.raises(ValueError, match="copies is 0"):
        bounds.per_record(bound, 0)


def test_every_method_agrees_with_the_plain_numbers_it_is_given() -> None:
    named = {name for name in bounds.__all__ if name not in ("Bound", "per_record")}
    assert named == {
        "clopper_pearson", "default_guesses", "dkw", "expected_correct", "gaussian",
        "gaussian_dkw", "gaussian_one_run", "hits_many_runs", "hits_one_run", "known_null",
        "rejects_claim", "rejects_claim_one_run", "steinke", "subsampled", "subsampled_one_run",
    }  # fmt: skip


def test_a_rate_too_small_for_a_ratio_has_a_logarithm() -> None:
    found = bounds.known_null(tp=5, n_in=5, fpr=1e-320, delta=0.0)
    missed = 1 - 0.05 ** (1 / 5)
    assert found.epsilon == pytest.approx(math.log(1 - missed) - math.log(1e-320), rel=1e-3)


def test_an_infinite_bound_is_not_shared_out_over_copies() -> None:
    infinite = dataclasses.replace(
        bounds.clopper_pearson(tp=9, fp=0, n_in=10, n_out=10, delta=1e-5), epsilon=math.inf
    )
    with pytest.raises(ValueError, match="infinite bound"):
        bounds.per_record(infinite, 2)
