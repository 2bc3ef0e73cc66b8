import math
from collections.abc import Callable
from typing import Any

from reports.run_report import run_markdown

MakeRow = Callable[..., dict[str, Any]]


def test_it_tells_verdict_guarantee_and_every_tier(row: MakeRow) -> None:
    told = run_markdown(row(clip="sample", weighting="clip", C=0.1, mb=1, seed=3))
    assert told.startswith("# sample C=0.1, seed 3\n")
    assert "**Verdict: not-claimed**" in told
    assert "Guarantee: none: nothing is clipped" in told
    assert "Lower bound on epsilon by the audit: 0.4" in told
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
    assert "Lower bound" not in told
    assert "Accuracy" not in told
