"""Tables as they are printed."""

from benchmarks.table import Cell, markdown, refused
from benchmarks.ways import Refusal


def test_equal_notes_have_one_number():
    refusal = refused(Refusal("Error: no"))
    columns = {
        "a": [Cell("1.00"), refusal, Cell("2.00", "Wrong.")],
        "b": [Cell("1.10"), refusal, Cell("3.00")],
    }
    assert markdown("way", ["x", "y", "z"], columns).splitlines() == [
        "| way   | a        | b     |",
        "|-------|----------|-------|",
        "| x     | 1.00     | 1.10  |",
        "| y     | - [1]    | - [1] |",
        "| z     | 2.00 [2] | 3.00  |",
        "",
        "[1] Error: no",
        "",
        "[2] Wrong.",
    ]


def test_without_notes():
    assert markdown("way", ["x"], {"a": [Cell("1")]}).splitlines()[-1] == "| x     | 1   |"
