import math
from collections.abc import Callable
from typing import Any

from reports.pictures import Gallery
from reports.plates import Plate
from reports.run_report import run_markdown

MakeRow = Callable[..., dict[str, Any]]


def test_it_tells_verdict_guarantee_and_every_tier(row: MakeRow) -> None:
    told = run_markdown(row(clip="sample", weighting="clip", C=0.1, mb=1, seed=3))
    assert told.startswith("# sample C=0.1, seed 3\n")
    assert "**Verdict: not-claimed**" in told
    assert "Guarantee: none: nothing is clipped" in told
    assert "What that means: there is no epsilon that an audit could contradict" in told
    assert "Lower bound on epsilon by the audit: 0.4; what a perfect attack" in told
    assert "Accuracy: 0.962" in told
    cells = [line.strip("| ").split("|") for line in told.splitlines() if line.startswith("|")]
    table = {cell[0].strip(): cell[1].strip() for cell in cells}
    assert table["1"] == "5.05 [4.20, 5.90]"
    assert table["16"] == "8.29"
    assert table["0 (held out)"] == "1.45"
    assert table["any, before training"] == "1.42"


def test_a_claim_is_told_with_its_epsilon(row: MakeRow) -> None:
    claim = {"eps": 3.14159, "guarantee": "(3.14, 1e-05), PRV", "verdict": "contradicted"}
    told = run_markdown(row(clip="sample", weighting="clip", C=1.0, sigma=0.5, mb=1, **claim))
    assert "**Verdict: contradicted**" in told
    assert "Guarantee: (3.14, 1e-05), PRV" in told
    assert "Epsilon: 3.14" in told


def test_what_was_not_measured_is_told_so(row: MakeRow) -> None:
    told = run_markdown(row(exp_1=math.nan, exp_2=None, eps_lb=math.nan, acc=math.nan))
    assert told.count("not measured") == 2
    assert "nan" not in told
    assert "Lower bound on epsilon by the audit: not recorded" in told
    assert "Accuracy" not in told


def test_what_the_audit_measured_is_told(row: MakeRow) -> None:
    measured = {"eps_lb_by": "records", "eps_lb_ceiling": 5.782, "eps_lb_expected": 1.55}
    measured |= {"auc_low": 0.75, "auc_high": 0.87, "coin_p": 0.004, "before_p": 0.4321}
    told = run_markdown(row(**measured, eps=2.0, coin_fired=0.02, n_tests=8))
    for line in (
        "Lower bound on epsilon by the audit: 0.4 from records; a perfect attack could have "
        "shown 5.78",
        "Bound to expect if the claim is exactly met: 1.55",
        "AUC, inserted once against held out: 0.810 [0.750, 0.870]",
        "Coins flipped again do as well, p-value: 0.004",
        "Share of such flips with a bound above 0: 0.02",
        "Exposure before training is the null's, p-value: 0.432",
        "Bounds that share the failure probability: 8",
    ):
        assert f"- {line}\n" in told


def test_an_older_row_says_what_it_did_not_record(row: MakeRow) -> None:
    told = run_markdown(row(auc=None))
    assert told.count("not recorded") == 6
    assert "if the claim is exactly met: nothing is claimed" in told
    assert "AUC, inserted once against held out: not recorded" in told
    assert "(no interval recorded)" in run_markdown(row())


def test_pictures_come_with_their_sentences_and_missing_ones_with_the_reason(row: MakeRow) -> None:
    plate = Plate("roc.png", "ROC", "Read it so.", b"")
    told = run_markdown(row(), Gallery((plate,), ("exposure.png is left out: no canaries.",)))
    assert "![ROC](roc.png)\n\nRead it so.\n\n- exposure.png is left out: no canaries.\n" in told
    assert "![" not in run_markdown(row())


def test_names_keep_their_capitals(row: MakeRow) -> None:
    told = run_markdown(row(acc=math.nan, bleu=20.25))
    assert "BLEU: 20.25" in told
