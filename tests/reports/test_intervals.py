import math

import numpy as np
import pytest
from scipy import stats

from reports.intervals import Interval, null_mean, null_range, over_seeds

NAN = math.nan


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.93, 0.95, 0.96, 0.91]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.mean == pytest.approx(0.9375)


def test_one_seed_has_no_interval_and_missing_seeds_do_not_count() -> None:
    assert over_seeds([0.9, NAN]).mean == 0.9
    assert not over_seeds([0.9, NAN]).known
    assert math.isnan(over_seeds([]).mean)


def test_overlap_allows_no_comparison() -> None:
    low, middle, high = Interval(1, 0, 2), Interval(2.5, 1.5, 3.5), Interval(4, 3, 5)
    assert low.below(high)
    assert high.above(low)
    assert not low.below(middle)
    assert not high.above(middle)


def test_unknown_bounds_allow_no_comparison() -> None:
    known, unknown = Interval(1, 0, 2), Interval(9, NAN, NAN)
    assert not known.below(unknown)
    assert not unknown.above(known)
    assert not unknown.contains(9)


def test_limits_cut_bounds_and_unknown_limits_do_not() -> None:
    assert Interval(1, -2, 12).within(0, 10) == Interval(1, 0, 10)
    assert Interval(1, -2, 12).within(NAN, NAN) == Interval(1, -2, 12)


@pytest.mark.parametrize(
    ("references", "expected"), [(9, 1.142822), (99, 1.396206), (999, 1.436386), (NAN, 1.442695)]
)
def test_the_null_mean_is_exact(references: float, expected: float) -> None:
    assert null_mean(references) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("canaries", "upper"), [(1, 4.32193), (5, 2.64115), (10, 2.26578), (50, 1.79388)]
)
def test_the_null_range_has_the_exact_quantiles(canaries: int, upper: float) -> None:
    assert null_range(canaries, level=0.1)[1] == pytest.approx(upper, abs=1e-5)


def test_the_null_range_holds_its_level() -> None:
    draws = np.random.default_rng(0).exponential(1 / math.log(2), size=(4000, 20)).mean(axis=1)
    low, high = null_range(20, level=0.05)
    assert np.mean((draws < low) | (draws > high)) == pytest.approx(0.05, abs=0.012)


def test_few_references_shift_the_range_to_their_mean() -> None:
    limit, few = null_range(10, level=0.05), null_range(10, level=0.05, references=99)
    assert few[0] - limit[0] == pytest.approx(1.396206 - 1.442695, abs=1e-6)
    assert few[1] - limit[1] == pytest.approx(1.396206 - 1.442695, abs=1e-6)
