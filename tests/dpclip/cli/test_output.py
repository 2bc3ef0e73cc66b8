import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from dpclip.cli.errors import Contradicted
from dpclip.cli.output import Output, json_rows, judged

Call = Callable[..., Any]
TINY = ("--task", "own_tasks:tiny", "--epochs", "1", "--accountant", "rdp")
AUDIT = ("audit", *TINY, "--canaries", "2", "--references", "10", "--workers", "0")


def strict(text: str) -> Any:
    """Returns what the JSON means to a parser that knows neither NaN nor Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_rows_are_strict_json() -> None:
    row = {"eps": math.inf, "low": -math.inf, "auc": math.nan, "C": None, "seed": 1, "clip": "ü"}
    assert strict(json_rows([row, {}])) == [
        {"eps": "inf", "low": "-inf", "auc": None, "C": None, "seed": 1, "clip": "ü"},
        {},
    ]
    assert strict(json_rows([])) == []
    assert float(strict(json_rows([row]))[0]["eps"]) == math.inf


@pytest.mark.parametrize(
    ("quiet", "as_json", "out", "err"),
    [
        (False, False, "result\nremark\n", ""),
        (True, False, "result\n", ""),
        (False, True, '[\n{"a": 1}\n]\n', "result\nremark\n"),
        (True, True, '[\n{"a": 1}\n]\n', ""),
    ],
)
def test_what_goes_where(
    capsys: pytest.CaptureFixture[str], quiet: bool, as_json: bool, out: str, err: str
) -> None:
    output = Output(quiet, as_json)
    output.result("result")
    output.remark("remark")
    output.rows([{"a": 1}])
    assert tuple(capsys.readouterr()) == (out, err)


def test_what_is_printed_for_people_alone_is_refused_to_a_script(call: Call) -> None:
    for word in ("--json", "--quiet"):
        ended = call("audit", "--self-test", word, "--runs", "1")
        assert (ended.code, ended.out) == (2, "")
        assert "leave out --quiet and --json" in ended.err


@pytest.mark.parametrize("error", [RuntimeError("no answer"), OSError("no room"), None])
def test_a_contradiction_decides_whatever_becomes_of_the_logging(
    capsys: pytest.CaptureFixture[str], error: Exception | None
) -> None:
    rows = [{"arm": "a", "verdict": "consistent"}, {"arm": "b", "verdict": "contradicted"}]
    told = r"bound of b exceeds .* \(alpha 0.1\)"
    with pytest.raises(Contradicted, match=told), judged(rows, "alpha 0.1"):
        if error:
            raise error
    assert capsys.readouterr().err == (f"dpclip: {error}\n" if error else "")
    with pytest.raises(type(error)) if error else nullcontext(), judged(rows[:1], "alpha 0.1"):
        if error:
            raise error


def test_an_audit_for_a_script(call: Call, store: Path) -> None:
    words = (*AUDIT, "--grouping", "none,sample", "--store", str(store))
    ended = call(*words, "--json")
    assert ended.code == 0
    found = strict(ended.out)
    assert [row["arm"] for row in found] == ["none", "sample clip:1"]
    assert found[0]["eps"] == "inf"
    assert "Before training:" in ended.err
    assert "exposure 1x" in ended.err
    again = call(*words, "--json", "--quiet")
    assert (strict(again.out), again.err) == (found, "")


def test_a_quiet_audit_prints_its_table_alone(call: Call, store: Path) -> None:
    ended = call(*AUDIT, "--grouping", "none", "--store", str(store), "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("On tiny, ")
    assert "exposure 1x" in ended.out
    assert not any(word in ended.out for word in ("Before training", "Report:", "Runs:"))


def test_a_training_for_a_script(call: Call, store: Path) -> None:
    ended = call("train", *TINY, "--store", str(store), "--json")
    assert ended.code == 0
    (row,) = strict(ended.out)
    assert row["eps"] == "inf"
    assert Path(row["weights"]).is_file()
    assert "Runs: dpclip ui" in ended.err
    quiet = call("train", *TINY, "--store", str(store), "--quiet")
    assert (quiet.code, quiet.err, quiet.out.count("\n")) == (0, "", 1)


@pytest.mark.slow
def test_a_log_gets_no_bar_and_no_chatter(tmp_path: Path) -> None:
    """A cold store, as users meet it: MLflow makes its database here."""
    code = "import sys; from dpclip.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [*AUDIT, "--grouping", "none", "--store", str(tmp_path / "cold")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout
