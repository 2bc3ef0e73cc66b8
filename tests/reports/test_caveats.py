from collections.abc import Callable
from typing import Any

import pytest

from reports.caveats import budget, caveats, norm_reading, null_check, remarks
from reports.rows import Row

MakeRow = Callable[..., dict[str, Any]]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}


def test_many_canaries_are_a_warning(row: MakeRow) -> None:
    (warning,) = budget([row(budget=0.002), row(budget=0.24)])
    assert warning.startswith("Canaries are 24 % of the training records, beyond the usual 0.1-1 %")
    assert budget([row(budget=0.01), row(budget=None)]) == []


def test_canaries_at_the_null_pass(row: MakeRow) -> None:
    held_out, before = null_check([row()])
    assert held_out == (
        "Held-out canaries after training lie at the null of 1.44 bits, as they must "
        "(1 arm checked)."
    )
    assert before.startswith("All canaries before training lie at the null")


@pytest.mark.parametrize("mean", [0.69, 2.57])
def test_canaries_off_the_null_are_loud(row: MakeRow, mean: float) -> None:
    held_out, before = null_check([row(exp_out=mean)])
    assert held_out.startswith("NULL CHECK FAILED: held-out canaries after training are NOT at")
    assert f"in 1 of 1 arm: no clipping {mean:.2f}, expected within [1.0" in held_out
    assert "NOT" not in before


def test_a_failure_before_training_is_told_apart(row: MakeRow) -> None:
    held_out, before = null_check([row(exp_before=3.0)])
    assert "NOT" not in held_out
    assert "all canaries before training are NOT at the null" in before


def test_few_canaries_allow_more_and_the_level_is_shared_among_arms(row: MakeRow) -> None:
    off = {"exp_out": 1.9}
    assert "NOT" in null_check([row(**off, n_out=100)])[0]
    assert "NOT" not in null_check([row(**off, n_out=20)])[0]
    # 1.9 bits over 50 canaries is outside 95 %, and inside 95 % for ten arms together.
    arms = [SAMPLE | {"C": float(bound)} for bound in range(1, 10)]
    assert "NOT" in null_check([row(exp_out=1.88, n_out=50, references=None)])[0]
    many = [row(exp_out=1.88, n_out=50, references=None)]
    many += [row(**arm, exp_out=1.4, n_out=50) for arm in arms]
    assert "NOT" not in null_check(many)[0]


def test_shared_references_widen_what_is_allowed(row: MakeRow) -> None:
    off = {"exp_out": 1.7, "n_out": 200}
    assert "NOT" in null_check([row(**off, references=100_000)])[0]
    assert "NOT" not in null_check([row(**off, references=200)])[0]


def test_without_counts_seeds_decide_and_one_seed_cannot(row: MakeRow) -> None:
    bare = {"n_out": None, "n_in": None}
    spread = [row(**bare, seed=s, exp_out=mean) for s, mean in enumerate((1.3, 1.4, 1.6))]
    assert "lie at the null" in null_check(spread)[0]
    high = [row(**bare, seed=s, exp_out=mean) for s, mean in enumerate((3.0, 3.1, 3.2))]
    assert "NULL CHECK FAILED" in null_check(high)[0]
    assert "no null check" in null_check(spread[:1])[0]
    assert null_check([row(exp_out=None, exp_before=None)]) == []


def test_large_gradients_promise_that_clipping_helps(sweep: list[Row]) -> None:
    (reading,) = norm_reading(sweep)
    assert "lies at percentile 99 of the data's, large beside the data" in reading
    assert "clipping alone is expected to suppress rare canaries" in reading
    assert "no clipping 5.05 [4.75, 5.35]; sample C=0.1 1.55 [1.25, 1.85] (lower)" in reading
    assert "microbatch 16 C=0.1 5.14 [4.84, 5.44] (no difference can be claimed)" in reading
    assert "sigma" not in reading
    assert "min" not in reading


def test_ordinary_gradients_promise_nothing(row: MakeRow) -> None:
    high = {"exposure": 7.0, "exp_low": 6.5, "exp_high": 7.5}
    (reading,) = norm_reading([row(norm_pct=52.0), row(**SAMPLE, **high)])
    assert "percentile 52 of the data's, not large beside the data" in reading
    assert "not expected to help and may amplify rare canaries; noise is what helps" in reading
    assert "sample C=0.1 7.00 [6.50, 7.50] (higher)" in reading


def test_norms_of_clipped_arms_are_not_read(row: MakeRow) -> None:
    assert norm_reading([row(norm_pct=None), row(**SAMPLE, norm_pct=99.0)]) == []
    (reading,) = norm_reading([row()])
    assert "No fixed clipping arm without noise was run to compare with." in reading


def test_remarks_end_with_skipped_and_claims(row: MakeRow) -> None:
    said = remarks([row()], skipped=["core 8, min, sigma 1: no local bound"])
    assert said[-2] == "Skipped: core 8, min, sigma 1: no local bound"
    assert said[-1].startswith("No arm has a finite epsilon")


def test_tasks_are_told_apart(row: MakeRow) -> None:
    said = caveats([row(budget=0.001), row(task="text", budget=0.5)])
    assert [remark.split(":")[0] for remark in said if "50 %" in remark] == ["text"]
