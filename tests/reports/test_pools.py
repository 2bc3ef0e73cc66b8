import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.pools import pools, spread

Make = Callable[..., Any]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}


def test_the_seeds_of_an_arm_are_pooled_in_the_order_of_the_summary(
    row: Make, canaries: Make
) -> None:
    rows = [row(**SAMPLE, seed=0), row(seed=0), row(**SAMPLE, seed=1)]
    tables = [canaries([1.0], [0.5]), canaries([9.0], []), canaries([2.0, 3.0], [0.25], [4.0])]
    plain, sample = pools(rows, tables)
    assert (plain.name, plain.seeds, plain.once, plain.held_out) == ("no clipping", 1, (9.0,), ())
    assert (sample.name, sample.clip, sample.seeds) == ("sample C=0.1", "sample", 2)
    assert sample.once == (1.0, 2.0, 3.0)
    assert sample.tiers == {1: (1.0, 2.0, 3.0), 2: (4.0,)}
    assert sample.held_out == (0.5, 0.25)


def test_with_several_seeds_mean_and_interval_are_the_tables(row: Make, canaries: Make) -> None:
    rows = [row(seed=s, exposure=bits, auc=auc) for s, bits, auc in ((0, 4.0, 0.9), (1, 5.0, 1.0))]
    (pool,) = pools(rows, [canaries(), canaries()])
    assert pool.means[1].mean == 4.5
    assert pool.means[1].low == pytest.approx(max(0, 4.5 - stats.t.ppf(0.975, 1) * 0.5))
    assert pool.auc.mean == pytest.approx(0.95)
    assert pool.auc.high == 1.0


def test_with_one_seed_other_tiers_have_students_interval_over_canaries(
    row: Make, canaries: Make
) -> None:
    twice = [3.0, 4.0, 6.5]
    (pool,) = pools([row(auc_low=0.7, auc_high=0.9)], [canaries(twice=twice)])
    assert (pool.means[1].low, pool.means[1].high) == (4.2, 5.9)
    half = stats.t.ppf(0.975, 2) * stats.sem(twice)
    assert pool.means[2].high == pytest.approx(np.mean(twice) + half)
    assert (pool.auc.mean, pool.auc.low, pool.auc.high) == (0.81, 0.7, 0.9)


def test_a_spread_stays_between_0_and_the_ceiling_and_needs_canaries_that_differ() -> None:
    assert (spread([0.1, 9.0], 10.0).low, spread([0.1, 9.0], 10.0).high) == (0.0, 10.0)
    assert not spread([3.0]).known
    assert not spread([3.0, 3.0, 3.0]).known
    assert spread([3.0, 3.0]).mean == 3.0


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"references": 1000, "exp_ceiling": math.log2(1001)}, 1000),
        # An enumerated space: a filling is ranked among the others.
        ({"references": 10**6, "exp_ceiling": math.log2(10**6)}, 10**6 - 1),
        ({"references": 100, "exp_ceiling": math.log2(1001)}, None),
        ({"references": 1000, "exp_ceiling": 9.9}, None),
        ({"references": None, "exp_ceiling": math.log2(1001)}, None),
        ({"references": 1000, "exp_ceiling": None}, None),
        ({"references": 1000, "exp_ceiling": math.inf}, None),
    ],
)
def test_the_number_of_references_is_told_where_ceiling_and_count_agree(
    row: Make, canaries: Make, columns: dict[str, Any], expected: int | None
) -> None:
    (pool,) = pools([row(**columns)], [canaries()])
    assert pool.references == expected


def test_runs_without_canaries_are_no_pool(row: Make, canaries: Make) -> None:
    assert [pool.name for pool in pools([row(), row(**SAMPLE)], [[], canaries()])] == [
        "sample C=0.1"
    ]


def test_tables_that_do_not_fit_are_refused(row: Make, canaries: Make) -> None:
    with pytest.raises(ValueError, match="there are 2 rows and 1 tables"):
        pools([row(), row(seed=1)], [canaries()])
    read_from_text = [one | {"inserted": "False"} for one in canaries()]
    with pytest.raises(ValueError, match="'once/0' has inserted 'False', expected True or False"):
        pools([row()], [read_from_text])
    with pytest.raises(ValueError, match="has repetitions None"):
        pools([row()], [[one | {"repetitions": None} for one in canaries()]])
