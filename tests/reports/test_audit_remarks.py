import math
from collections.abc import Callable
from typing import Any

from reports.audit_remarks import audit_remarks
from reports.caveats import remarks

MakeRow = Callable[..., dict[str, Any]]
NOISE = {"clip": "sample", "weighting": "clip", "C": 1.0, "sigma": 1.0, "mb": 1}
CLAIM = NOISE | {"eps": 2.0, "eps_lb": 0.5, "eps_lb_ceiling": 5.8, "eps_lb_by": "records"}


def test_nothing_wrong_and_nothing_recorded_need_no_remark(row: MakeRow) -> None:
    assert audit_remarks([row()]) == []
    assert audit_remarks([row(**CLAIM, coin_p=0.01, before_p=0.01)]) == []
    assert audit_remarks([{"task": "digits", "clip": "none", "seed": 0}]) == []


def test_a_difference_before_training_is_loud(row: MakeRow) -> None:
    rows = [row(before_p=0.001), row(seed=1, before_p=0.3), row(seed=2, before_p=math.nan)]
    (remark,) = audit_remarks(rows)
    assert remark.startswith(
        "TEST BEFORE TRAINING FAILED in 1 of 2 runs (no clipping; 0.02 expected by chance): "
        "canaries and references differ from the start"
    )
    assert "AUC and bounds on epsilon, is not affected" in remark


def test_coins_that_can_be_told_are_said_even_at_a_bound_of_0(row: MakeRow) -> None:
    (remark,) = audit_remarks([row(coin_p=0.009, eps_lb=0.0)])
    assert "in less than 1 % of cases in 1 of 1 run (no clipping; 0.01 expected" in remark
    assert "tell inserted canaries from held-out ones, even where the bound on epsilon is 0" in (
        remark
    )


def test_gradient_canaries_may_be_told(row: MakeRow) -> None:
    found = audit_remarks([row(**CLAIM | {"eps_lb_by": "gradient canaries"}, coin_p=0.001)])
    coins, source = found
    assert "as every epsilon above 0 allows to some extent" in coins
    assert "held-out" not in coins
    assert source.startswith(
        "The lower bound comes from gradient canaries for sample C=1 sigma=1: they test the "
        "weighting rule, the noise and the number of steps against somebody who sees every update"
    )


def test_a_ceiling_below_the_claim_is_out_of_reach(row: MakeRow) -> None:
    rows = [row(**CLAIM | {"eps": 8.1, "seed": s}) for s in (0, 1)]
    (remark,) = audit_remarks([*rows, row(**CLAIM | {"sigma": 2.0})])
    assert remark.startswith(
        "Out of the audit's reach: sample C=1 sigma=1 (ceiling 5.8, claim 8.1). Even a perfect"
    )


def test_an_unknown_ceiling_beside_a_claim_is_said(row: MakeRow) -> None:
    (remark,) = audit_remarks([row(**CLAIM | {"eps_lb_ceiling": None}), row(eps_lb=0.4)])
    assert remark.startswith(
        "What a perfect attack could have shown is not recorded for sample C=1 sigma=1: a lower "
        "bound below the claim may only mean that the audit was weak."
    )


def test_many_arms_are_counted(row: MakeRow) -> None:
    rows = [row(**CLAIM | {"sigma": float(s), "eps": 9.0}) for s in range(1, 8)]
    (remark,) = audit_remarks(rows)
    assert remark.count("ceiling 5.8") == 4
    assert "sigma=4 (ceiling 5.8, claim 9) and 3 more. Even" in remark


def test_they_are_among_the_remarks(row: MakeRow) -> None:
    assert [said for said in remarks([row(before_p=0.001)]) if said.startswith("TEST BEFORE")]
