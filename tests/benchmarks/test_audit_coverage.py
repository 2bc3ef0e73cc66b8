"""What simulated audits say about bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from audits import bounds
from benchmarks import audit_coverage
from benchmarks.audit_cases import (
    Case,
    cases,
    gaussian_case,
    response_case,
    subsampled_case,
)
from benchmarks.audit_coverage import Coverage, main, simulate
from benchmarks.audit_methods import (
    best_of,
    best_threshold,
    by_all_thresholds,
    by_answers,
    by_guesses,
    by_threshold,
    of_attack,
    right,
)

COINS = np.array([True, True, True, False, False, False, True, False])
SCORES = np.array([3.0, 2.5, -1.0, 0.5, -2.0, 2.0, 1.0, -3.0])
AT = {"delta": 1e-5, "alpha": 0.05}


def constant(value: float, fails: bool = False) -> Case:
    return Case(
        "known", lambda m, rng: (COINS, SCORES), {"told": lambda c, s: value}, {"told": 1.0}, fails
    )


def test_guesses_come_from_both_ends():
    assert right(COINS, SCORES, 2) == 2
    assert right(COINS, SCORES, 3) == 3  # the odd one is a top score
    assert right(COINS, SCORES, 6) == 4
    assert right(COINS, SCORES, 8) == 6
    method = by_guesses(bounds.steinke, 0.5, **AT)
    known = bounds.steinke(canaries=8, guesses=4, correct=4, **AT)
    assert right(COINS, SCORES, 4) == 4 and method(COINS, SCORES) == known.epsilon
    answers = by_answers(bounds.steinke, **AT)(COINS, (SCORES > 0).astype(float))
    assert answers == bounds.steinke(canaries=8, guesses=8, correct=5, **AT).epsilon


def test_thresholds_count_scores_at_them_as_inside():
    coins, scores = np.tile(COINS, 50), np.tile(SCORES, 50)
    found = by_threshold(bounds.gaussian, 1.0, **AT)(coins, scores)
    known = bounds.gaussian(tp=150, fp=50, n_in=200, n_out=200, **AT)
    assert found == known.epsilon > 0
    paid = by_all_thresholds(bounds.dkw, **AT)(coins, scores)
    assert paid == bounds.dkw(scores_in=scores[coins], scores_out=scores[~coins], **AT).epsilon
    tried = [by_threshold(bounds.clopper_pearson, t, **AT) for t in np.unique(scores)]
    assert best_of(tried)(coins, scores) == pytest.approx(best_threshold(coins, scores))
    turned = of_attack(tried[4], lambda x: -x)
    assert turned(coins, -scores) == tried[4](coins, scores)


def test_a_bound_at_the_truth_is_no_failure_and_one_above_is():
    (met,) = simulate(constant(1.0), 8, 30, 0)
    assert met == Coverage("known", "told", 1.0, 30, 0, 1.0, False)
    assert met.holds and met.share == 1
    (missed,) = simulate(constant(1.5), 8, 30, 0)
    assert missed.failures == 30 and not missed.holds and missed.share == 1.5


def test_one_failure_in_twenty_holds_and_one_in_four_does_not():
    def rate(failures: int) -> Coverage:
        return Coverage("known", "told", 0.0, 2000, failures, 0.0, False)

    assert rate(100).holds and not rate(500).holds
    assert math.isnan(rate(100).share)


def test_all_methods_of_a_case_see_the_same_audits():
    one, two = (simulate(gaussian_case(1.0), 200, 5, seed) for seed in (3, 3))
    assert one == two and one != simulate(gaussian_case(1.0), 200, 5, 4)
    assert {it.audits for it in one} == {5}
    answers = simulate(response_case(4.0), 300, 40, 5)
    assert all(0.5 < it.share < 1 for it in answers)


def test_subsampled_training_is_simulated():
    found = simulate(subsampled_case(0.5, 4, 2.0), 300, 3, 6)
    assert [it.method for it in found] == ["subsampled one-run", "subsampled"]
    assert all(0 <= it.mean < it.truth for it in found) and found[0].mean > 0


def test_every_case_has_a_truth_for_each_of_its_methods():
    every = cases()
    assert len({it.name for it in every}) == len(every)
    for case in every:
        assert case.truth.keys() == case.methods.keys()
    assert [it.fails for it in every] == [False] * (len(every) - 1) + [True]


@pytest.mark.parametrize(
    ("value", "fails", "code"), [(1.0, False, 0), (2.0, True, 0), (2.0, False, 1)]
)
def test_command_line(value, fails, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit_coverage, "cases", lambda: [constant(value, fails)])
    out = tmp_path / "coverage" / "bounds.md"
    assert main(["--audits", "20", "--canaries", "8", "--out", str(out)]) == code
    printed, written = capsys.readouterr().out, out.read_text()
    assert "| known       | told     | 1.000" in printed and printed in written + "\n"
    assert f"python -m benchmarks.audit_coverage --audits 20 --canaries 8 --out {out}" in written
    assert "20 simulated audits of 8 canaries" in written
