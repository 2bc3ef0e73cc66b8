import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.rows import Row
from reports.table import console, details, exposure_of, html, lines, markdown, summarize

MakeRow = Callable[..., dict[str, Any]]
MakeSweep = Callable[[int], list[dict[str, Any]]]


def test_arms_come_in_one_order_whatever_the_order_of_the_rows(sweep: list[Row]) -> None:
    expected = [
        *("no clipping", "sample C=0.1", "sample C=1", "microbatch 4 C=0.1"),
        *("microbatch 16 C=0.1", "core 8 min", "core 4 min", "sample C=0.3 sigma=0.5"),
    ]
    assert list(summarize(sweep)["arm"]) == expected
    assert list(summarize(sweep[::-1])["arm"]) == expected


def test_a_line_holds_means_with_students_interval(row: MakeRow) -> None:
    values = [0.93, 0.95, 0.96]
    bits = [4.0, 5.0, 5.5]
    rows = [
        row(seed=s, acc=a, exposure=b) for s, (a, b) in enumerate(zip(values, bits, strict=True))
    ]
    (line,) = lines(summarize(rows))
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert line["seeds"] == 3
    assert line["metric"] == "acc"
    assert line["utility"] == pytest.approx(np.mean(values))
    assert line["utility_half"] == pytest.approx(half)
    assert exposure_of(line).high - exposure_of(line).mean == pytest.approx(
        stats.t.ppf(0.975, 2) * stats.sem(bits)
    )


def test_one_seed_has_the_interval_of_its_canaries_for_the_1x_tier_only(row: MakeRow) -> None:
    (line,) = lines(summarize([row(exp_low=4.2, exp_high=5.9)]))
    assert (exposure_of(line).low, exposure_of(line).high) == (4.2, 5.9)
    assert math.isnan(float(line["utility_half"] or 0))
    assert exposure_of(line, 16).mean == 8.29
    assert not exposure_of(line, 16).known


def test_intervals_stay_between_zero_and_the_ceiling(row: MakeRow) -> None:
    rows = [row(seed=s, exposure=b, exp_16=c) for s, b, c in ((0, 0.2, 8.0), (1, 2.8, 9.9))]
    (line,) = lines(summarize(rows))
    assert exposure_of(line).low == 0.0
    assert exposure_of(line, 16).high == 9.97


def test_the_largest_epsilon_of_the_seeds_speaks_for_the_arm(row: MakeRow) -> None:
    claim = {"clip": "sample", "weighting": "clip", "C": 1.0, "sigma": 1.0}
    rows = [
        row(**claim, seed=0, eps=2.0, guarantee="two", eps_lb=0.5, verdict="consistent"),
        row(**claim, seed=1, eps=2.1, guarantee="more", eps_lb=0.7, verdict="contradicted"),
    ]
    (line,) = lines(summarize(rows))
    assert (line["eps"], line["guarantee"], line["eps_lb"]) == (2.1, "more", 0.7)
    assert line["verdict"] == "contradicted"
    (line,) = lines(summarize([*rows, row(**claim, seed=2, eps=math.inf, guarantee="none: x")]))
    assert (line["eps"], line["guarantee"]) == (math.inf, "none: x")


def test_a_run_without_epsilon_claims_none(row: MakeRow) -> None:
    (line,) = lines(summarize([{"task": "digits", "clip": "none", "seed": 0, "exposure": 2.0}]))
    assert line["eps"] == math.inf
    assert line["metric"] == ""


def test_no_rows_repeated_seeds_and_mixed_models_are_refused(row: MakeRow) -> None:
    with pytest.raises(ValueError, match="no rows to summarize"):
        summarize([])
    with pytest.raises(ValueError, match="'no clipping' has seed 3 more than once"):
        summarize([row(seed=3), row(seed=3)])
    with pytest.raises(ValueError, match="mixes the models cnn, mlp"):
        summarize([row(seed=0), row(seed=1, model="cnn")])


def test_the_tables_show_intervals_and_the_reason_for_no_epsilon(sweep: list[Row]) -> None:
    table = markdown(summarize(sweep))
    head, _, first, *_ = table.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        *("arm", "seeds", "acc", "exposure 1x, bits [95 %]", "2x", "4x", "8x", "16x", "norm pct"),
        "epsilon",
    ]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:4] == ["no clipping", "3", "0.962 ± 0.005", "5.05 [4.75, 5.35]"]
    assert cells[-1] == "none: nothing is clipped"
    assert table.splitlines()[-1].split("|")[-2].strip() == "8.1"
    assert len({len(line) for line in table.splitlines()}) == 1


def test_one_seed_shows_no_half_width_and_unmeasured_tiers_no_column(row: MakeRow) -> None:
    table = console(summarize([row(exp_2=None, exp_4=None, exp_8=None, exp_16=None)]))
    assert "0.962  " in table
    assert "±" not in table
    assert "2x" not in table


def test_long_reasons_are_cut_and_bars_do_not_break_the_table(row: MakeRow) -> None:
    reason = "none: a|b " + "very long reason " * 10
    table = markdown(summarize([row(guarantee=reason)]))
    assert "none: a/b very long" in table
    assert "..." in table
    assert all(line.count("|") == table.splitlines()[0].count("|") for line in table.splitlines())


def test_several_tasks_have_a_table_each(row: MakeRow) -> None:
    frame = summarize([row(), row(task="text", acc=None, ppl=8.5)])
    assert markdown(frame).count("| arm") == 2
    assert "**text**" in markdown(frame)
    assert "8.50" in markdown(frame)
    assert "<h3>digits</h3>" in html(frame)


def test_html_escapes(row: MakeRow) -> None:
    assert "&lt;b&gt;" in html(summarize([row(guarantee="none: <b>")]))
    hostile = "<img src=x onerror=alert(1)>"
    for page in (html, partial(details, style="html")):
        told = page(summarize([row(task=hostile), row(task="digits")]))
        assert "<img" not in told
        assert "<h3>&lt;img src=x onerror=alert(1)&gt;</h3>" in told


def test_what_explains_the_results_is_told_per_task(row: MakeRow) -> None:
    """The same arm on two tasks is two lines that nothing else tells apart."""
    several = details(summarize([row(task="digits", lr=0.1), row(task="text", lr=0.2)]))
    assert several.index("**digits**") < several.index("0.1") < several.index("**text**")
    assert several.index("**text**") < several.index("0.2")
    assert "**digits**" not in details(summarize([row(task="digits", lr=0.1)]))


def test_the_second_table_explains_the_first(sweep: list[Row]) -> None:
    table = details(summarize(sweep))
    assert "12,346" in table
    assert "held-out exposure" in table
    assert "consistent" in table


def test_the_frame_is_a_plain_frame(sweep_of: MakeSweep) -> None:
    frame = summarize(sweep_of(2))
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 8
    assert {"utility", "utility_half", "exposure_low", "exp_16_high", "eps"} <= set(frame)


def test_the_strongest_bound_of_the_seeds_brings_its_own_source_and_ceiling(row: MakeRow) -> None:
    rows = [
        row(seed=2, eps_lb=None, eps_lb_by="records", eps_lb_ceiling=9.0),
        row(seed=0, eps_lb=0.4, eps_lb_by="records", eps_lb_ceiling=5.0, eps_lb_expected=1.0),
        row(seed=1, eps_lb=0.9, eps_lb_by="gradient canaries", eps_lb_ceiling=4.0),
    ]
    (line,) = lines(summarize(rows))
    assert (line["eps_lb"], line["eps_lb_by"]) == (0.9, "gradient canaries")
    assert line["eps_lb_ceiling"] == 4.0
    assert math.isnan(float(line["eps_lb_expected"] or 0))


def test_the_smallest_p_values_speak_for_the_arm(row: MakeRow) -> None:
    rows = [row(seed=s, coin_p=p, before_p=q) for s, p, q in ((0, 0.3, None), (1, 0.002, 0.6))]
    (line,) = lines(summarize(rows))
    assert (line["coin_p"], line["before_p"]) == (0.002, 0.6)


def test_the_worst_verdict_of_the_seeds_speaks_for_the_arm(row: MakeRow) -> None:
    def verdict(*found: str) -> object:
        rows = [row(seed=seed, verdict=word) for seed, word in enumerate(found)]
        return lines(summarize(rows))[0]["verdict"]

    assert verdict("consistent", "unresolvable") == "unresolvable"
    assert verdict("unresolvable", "not-claimed") == "not-claimed"
    assert verdict("not-claimed", "contradicted", "consistent") == "contradicted"


def test_an_auc_has_its_interval_where_there_is_one_run(row: MakeRow) -> None:
    ends = {"auc_low": 0.75, "auc_high": 0.87}
    assert "0.810 [0.75, 0.87]" in details(summarize([row(**ends)]))
    several = details(summarize([row(**ends), row(**ends, seed=1)]))
    assert "0.810" in several
    assert "[0.75" not in several


def test_what_older_stores_did_not_record_is_no_column(row: MakeRow) -> None:
    new = ("its ceiling", "expected if exact", "smallest coin p", "smallest p before", "bound from")
    old = details(summarize([row()]))
    assert not [head for head in new if head in old]
    columns = {"eps_lb_ceiling": 5.78, "eps_lb_expected": 1.5, "coin_p": 0.02, "before_p": 0.4}
    told = details(summarize([row(**columns, eps=2.0, eps_lb_by="records")]))
    assert not [head for head in new if head not in told]
    # Nothing is to be expected where nothing is claimed.
    assert "expected if exact" not in details(summarize([row(**columns)]))
    assert "unresolvable" in details(summarize([row(verdict="unresolvable")]))
