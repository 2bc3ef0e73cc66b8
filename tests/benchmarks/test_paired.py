"""Tables of arms against a baseline, seed by seed."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy.stats import t

from benchmarks.paired import compared, main
from benchmarks.paired_figure import exposure_differences
from benchmarks.paired_runs import by_arm, difference, mean
from reports.summary import csv_text


def run(clip: str, seed: int, acc: float, **more: object) -> dict:
    size = {"none": None}.get(clip, 1)
    weighting = "none" if clip == "none" else "scarcity"
    arm = {"task": "digits", "clip": clip, "weighting": weighting, "mb": size, "sigma": 0.0}
    arm |= {"C": None if clip == "none" else 3.0, "slots": "position", "pacing": "none"}
    return arm | {"seed": seed, "lr": 0.1, "acc": acc, "exp_1": 1.0 + seed, "auc": 0.5} | more


PLAIN = [run("none", seed, acc) for seed, acc in enumerate((0.5, 0.7, 0.6))]
QUEUE = [run("core", seed, acc) for seed, acc in enumerate((0.6, 0.75, 0.73))]


def interval(values: list[float]) -> tuple[float, float, float]:
    """The slow twin: Student's interval written out."""
    centre, n = statistics.mean(values), len(values)
    half = t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return centre, centre - half, centre + half


def test_differences_are_by_seed():
    found = difference(QUEUE[::-1], PLAIN, "acc")
    expected = interval([0.6 - 0.5, 0.75 - 0.7, 0.73 - 0.6])
    assert (found.mean, found.low, found.high) == pytest.approx(expected)
    alone = mean(QUEUE, "acc")
    assert (alone.mean, alone.low, alone.high) == pytest.approx(interval([0.6, 0.75, 0.73]))


def test_shares_stay_between_0_and_1():
    rows = [run("none", seed, acc, exp_1=9 * acc) for seed, acc in enumerate((0.99, 0.5))]
    assert (mean(rows, "acc").low, mean(rows, "acc").high) == (0.0, 1.0)
    assert mean(rows, "exp_1").high > 9


def test_other_seeds_are_refused():
    with pytest.raises(ValueError, match=r"core 1 .* has the seeds 0, 1, .* 0, 1, 2: expected"):
        difference(QUEUE[:2], PLAIN, "acc")


def test_an_arm_twice_is_refused():
    with pytest.raises(ValueError, match="no clipping has 6 runs of 3 seeds"):
        by_arm([*PLAIN, *PLAIN])


def test_the_table():
    shifted = [run("core", r["seed"], r["acc"] + 0.1 + r["seed"] / 100) for r in PLAIN]
    table = compared(by_arm([*shifted, *PLAIN]), "no clipping", ["acc", "exp_1"])
    head, _, plain, queue = table.splitlines()
    named = ["arm", "seeds", "lr", "acc", "difference", "exp_1", "difference"]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == named
    assert "mean batch" not in head
    assert "0.600 [0.352, 0.848]" in plain and "*" not in plain
    assert "+0.110 [+0.085, +0.135] *" in queue
    assert "+0.000 [+0.000, +0.000]" in queue and queue.count("*") == 1


def test_mean_batches_where_some_arm_is_paced():
    paced = [r | {"pacing": "angle:1.1", "mean_batch": 50.0 + r["seed"]} for r in PLAIN]
    table = compared(by_arm([*PLAIN, *paced]), "no clipping", ["acc"])
    assert "| fixed " in table and "| 51 " in table


@pytest.mark.parametrize(
    ("baseline", "measure", "says"),
    [("sample C=1", "acc", "No arm is 'sample C=1'"), ("no clipping", "bleu", "have no 'bleu'")],
)
def test_names_that_are_not_there(baseline, measure, says):
    with pytest.raises(ValueError, match=says):
        compared(by_arm(PLAIN), baseline, [measure])


def test_command_line(tmp_path, capsys):
    tiers = {f"exp_{tier}": 2.0 for tier in (1, 2, 4, 8, 16)}
    for name, held in {"plain": PLAIN, "queue": QUEUE}.items():
        rows = [row | tiers for row in held]
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.csv").write_text(csv_text(rows))
    picture = tmp_path / "repetition.png"
    both = f"{tmp_path / 'plain'}+{tmp_path / 'queue'}"
    main([f"{tmp_path / 'plain'}", both, "--picture", f"{picture}"])
    printed = capsys.readouterr().out
    assert printed.startswith("plain:\n\n| arm")
    assert "plain, queue:\n\n| arm" in printed and "| core 1 scarcity L=3 |" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_the_differences():
    def exposed(rows: list[dict], shift: float) -> list[dict]:
        more = {f"exp_{tier}": tier + shift for tier in (1, 2, 4, 8, 16)}
        return [r | {k: v + r["acc"] for k, v in more.items()} for r in rows]

    paced = [r | {"pacing": "angle:1.1"} for r in exposed(PLAIN, -1.0)]
    runs = by_arm([*exposed(PLAIN, 0.0), *exposed(QUEUE, 0.5), *paced])
    figure = exposure_differences({"one": runs, "two": runs}, "no clipping")
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["one", "two"]
    for axes in panels:
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        expected = interval([0.6 - 0.5, 0.75 - 0.7, 0.73 - 0.6])
        assert lines["core 1 scarcity L=3"] == pytest.approx([0.5 + expected[0]] * 5)
        assert lines["no clipping angle:1.1"] == pytest.approx([-1.0] * 5)
        assert "no clipping" not in lines
        bars = [held.get_segments()[0] for held in axes.collections]
        spans = {(round(float(bar[0, 1]), 6), round(float(bar[1, 1]), 6)) for bar in bars}
        assert (round(0.5 + expected[1], 6), round(0.5 + expected[2], 6)) in spans
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "no clipping angle:1.1",
        "core 1 scarcity L=3",
    ]
