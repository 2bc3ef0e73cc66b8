import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.rows import Row
from reports.summary import csv_text, read

MakeRow = Callable[..., dict[str, Any]]


def kept(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None and value == value}


def test_rows_come_back_as_they_were(tmp_path: Path, sweep: list[Row]) -> None:
    (tmp_path / "summary.csv").write_text(csv_text(sweep))
    back = read(tmp_path)
    assert back == [kept(row) for row in sweep]
    assert back[0]["eps"] == math.inf
    assert type(back[0]["seed"]) is int
    assert csv_text(back) == csv_text(sweep)


def test_infinity_is_inf_and_nothing_is_empty(row: MakeRow) -> None:
    head, line = csv_text([row(eps=math.inf, C=None, lr=math.nan)]).splitlines()
    named = dict(zip(head.split(","), line.split(","), strict=True))
    assert (named["eps"], named["C"], named["lr"]) == ("inf", "", "")
    assert head.startswith("task,clip,weighting,C,sigma,mb,seed,q,steps,lr,delta,acc,exposure,")


def test_awkward_values_survive(tmp_path: Path, row: MakeRow) -> None:
    awkward = row(
        guarantee='none: a "joint", minimum\nand more',
        model="12",
        digest="12e456",
        code="007",
        count=7,
        share=1e-300,
        secure=True,
    )
    (tmp_path / "summary.csv").write_text(csv_text([awkward]))
    assert read(tmp_path) == [kept(awkward)]


def test_numbers_written_by_hand_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("task,clip,seed,acc,C\ndigits,none,0,0.950,1\n\n")
    assert read(tmp_path) == [{"task": "digits", "clip": "none", "seed": 0, "acc": 0.95, "C": 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no task, clip, seed .found: nothing"),
        ("a,b\n1,2\n", "has no task, clip, seed .found: a, b"),
        ("task,clip,seed\ndigits,none\n", "line 2: found 2 fields, expected 3"),
        ("task,clip,seed,C\nx,none,0,big\n", "line 2: column 'C' holds 'big', expected a number"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "summary.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_missing_file_is_refused_with_the_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no summary.csv in .*expected the store"):
        read(tmp_path)
