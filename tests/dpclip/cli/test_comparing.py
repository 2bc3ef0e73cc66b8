import csv
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audits.sweep import Cell, Store
from dpclip.cli.comparing import _in_order
from reports import Provenance, write
from reports.tracking import finish, log_run, open_experiment, start_sweep

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

Call = Callable[..., Any]
ROW = {"task": "tiny", "clip": "none", "weighting": "none", "sigma": 0.0, "seed": 0, "acc": 0.9}
ROW |= {"exposure": 2.0, "exp_low": 1.5, "exp_high": 2.5, "eps": float("inf")}
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 1.0, "mb": 1, "exposure": 1.0}
QUICK = ("--epochs", "1", "--canaries", "2", "--references", "10", "--workers", "0")
AUDIT = ("audit", "--task", "own_tasks:tiny", *QUICK, "--accountant", "rdp")
ARMS = ("--grouping", "none,sample,microbatch:2:random", "--weighting", "clip:1,min")


def swept(store: Path, **changes: Any) -> str:
    write(store, [ROW | changes], Provenance(command="dpclip audit", configuration={"epochs": 3}))
    return str(store)


def cell(
    store: Path, seed: int, tests: int = 5, result: dict[str, Any] | None = None, **changes: Any
) -> None:
    arm = {"clip": "none", "size": None, "slots": "position", "weighting": "none", "number": None}
    config = {"kind": "audit", "task": "tiny", "seed": seed, "lr": 0.1, "tests": tests, **arm}
    row = ROW | {"seed": seed} | changes
    made = {"row": row, "series": {}, "canaries": []} | (result or {})
    Store(store, "tiny").write(Cell("", config | {"sigma": 0.0, "pacing": "none"}), made)


def test_stores_come_into_one_table(call: Call, tmp_path: Path) -> None:
    first, second = swept(tmp_path / "a"), swept(tmp_path / "b", **SAMPLE)
    ended = call("compare", "--stores", f"{first}, {second}")
    assert (ended.code, ended.err) == (0, "")
    assert "no clipping" in ended.out
    assert "sample C=1" in ended.out
    assert f"From {first}: 1 run, from summary.csv." in ended.out
    assert "tiny (" not in ended.out


@pytest.mark.parametrize("stores", ["missing", "missing,"])
def test_a_folder_without_a_sweep_is_refused(call: Call, stores: str) -> None:
    ended = call("compare", "--stores", stores)
    assert ended.code == 2
    assert "there is no summary.csv in" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--stores", ""), "names no folder"),
        (("--stores", "a,./a"), "names a more than once"),
        (
            ("--stores", "a", "--runs", "core 2"),
            "--runs 'core 2' is none of the runs: no clipping.",
        ),
        (("--stores", "a", "--runs", "seed1"), "'seed1' is none"),
        (("--stores", "a", "--runs", "0123abcd"), "give --tracking_uri for it"),
        (("--stores", "a", "--out", "b"), "b is the store of a sweep"),
        (("--stores", "a", "--out", "./a"), "a is the store of a sweep"),
        (("--stores", "a", "--out", "file"), "file is a file"),
        (("--tracking_uri", "sqlite:///none.db"), "there is no database none.db"),
    ],
)
def test_what_cannot_be_compared_costs_one_sentence(
    call: Call, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    swept(tmp_path / "a")
    Store(tmp_path / "b", "tiny")
    (tmp_path / "file").write_text("mine")
    ended = call("compare", *words)
    assert ended.code == 2
    assert told in ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out


def test_a_broken_summary_is_refused(call: Call, tmp_path: Path) -> None:
    store = swept(tmp_path / "a")
    with (tmp_path / "a" / "summary.csv").open("a") as file:
        file.write("half a li")
    ended = call("compare", "--stores", store)
    assert ended.code == 2
    assert "delete the line" in ended.err


def test_the_same_run_in_two_stores_is_two_tables(call: Call, tmp_path: Path) -> None:
    swept(tmp_path / "a", steps=100, q=0.1)
    swept(tmp_path / "b", steps=200, q=0.1)
    ended = call("compare", "--stores", "a,b")
    assert ended.code == 0
    assert "On tiny (a), " in ended.out
    assert "On tiny (b), " in ended.out


def test_stores_that_differ_are_said_to_differ(call: Call, tmp_path: Path) -> None:
    swept(tmp_path / "a", steps=100, q=0.1, references=10, verdict="not-claimed")
    swept(tmp_path / "b", steps=200, q=0.1, references=10, **SAMPLE)
    ended = call("compare", "--stores", "a,b")
    assert "tiny: the sweeps differ in epochs (a: 10; b: 20), so a difference" in ended.out
    assert "differ in references" not in ended.out
    assert re.search(r"b has no verdict, which others have: another version", ended.out)
    swept(tmp_path / "b", task="other", steps=200, q=0.1, references=10)
    ended = call("compare", "--stores", "a,b")
    assert "differ in" not in ended.out
    assert "has no" not in ended.out
    assert "On other, " in ended.out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": 0.5}, "differ in lr (a: 0.1; b: 0.5)"),
        ({"q": 0.2, "steps": 50}, "differ in q (a: 0.1; b: 0.2)"),
        ({"steps": 200}, "differ in epochs (a: 10; b: 20)"),
        ({"delta": 1e-6}, "differ in delta (a: 1e-05; b: 1e-06)"),
        ({"canaries": 8}, "differ in canaries (a: 4; b: 8)"),
        ({"references": 99}, "differ in references (a: 9; b: 99)"),
        ({"q": 0.13, "steps": 77}, "differ in q (a: 0.1; b: 0.13)"),
        ({"q": 0.112, "steps": 89}, ""),  # with as many canaries as the coins of a seed insert
        ({"steps": 101}, ""),  # as another seed may have them
        ({"lr": 0.10001}, ""),  # as four digits of a tracking server have it
    ],
)
def test_seeds_trained_otherwise_are_no_seeds_of_one_arm(
    call: Call, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    made = {"lr": 0.1, "q": 0.1, "steps": 100, "delta": 1e-5, "canaries": 4, "references": 9}
    swept(tmp_path / "a", **made)
    swept(tmp_path / "b", seed=1, **(made | changes))
    ended = call("compare", "--stores", "a,b")
    assert ended.code == 0
    assert ("On tiny (a), " in ended.out) == bool(told)
    assert told in ended.out
    assert ("differ in" in ended.out) == bool(told)


def test_what_sweeps_recorded_about_themselves_is_compared(call: Call, tmp_path: Path) -> None:
    for name, records in (("a", 100), ("b", 200)):
        told = {"training records": records, "epochs": 3}
        write(
            tmp_path / name,
            [ROW | {"seed": records, "lr": float(records)}],
            Provenance("dpclip audit", told, learning_rates=(100.0, 200.0)),
        )
    out = call("compare", "--stores", "a,b").out
    assert "the sweeps differ in training records (a: 100; b: 200)" in out
    assert "differ in lr" not in out  # each searched for its own


def test_a_sweep_that_is_not_finished_shows_what_there_is(call: Call, tmp_path: Path) -> None:
    for seed in (0, 1):
        cell(tmp_path / "a", seed)
    cell(tmp_path / "a", seed=7, tests=3, exposure=9.0)  # of another sweep, before
    for path in (tmp_path / "a" / "cells").iterdir():
        when = 1.0 if '"tests": 3' in path.read_text() else 2.0
        os.utime(path, (when, when))
    ended = call("compare", "--stores", "a")
    assert (ended.code, ended.err) == (0, "")
    assert "a: 2 runs, from the 2 of 5 runs that are finished: there is no summary.csv" in ended.out
    assert "2.00" in ended.out
    assert "1 finished run is of another sweep" in ended.out
    assert not (tmp_path / "a" / "summary.csv").exists()
    cell(tmp_path / "b", seed=0)
    assert "another sweep" not in call("compare", "--stores", "b").out


def test_runs_beside_the_summary_are_counted(call: Call, tmp_path: Path) -> None:
    swept(tmp_path / "a")
    cell(tmp_path / "a", seed=0)
    assert "are not in summary.csv" not in call("compare", "--stores", "a").out
    cell(tmp_path / "a", seed=1)
    cell(tmp_path / "a", seed=0, tests=9, acc=0.1)
    assert (
        "2 finished runs that lie there are not in summary.csv"
        in call("compare", "--stores", "a").out
    )


def test_pictures_are_made_of_what_finished_runs_kept(call: Call, tmp_path: Path) -> None:
    """One run kept its canaries and its training, the other is of a summary alone."""
    canary = {"id": "a", "family": "f", "repetitions": 1, "inserted": True, "exposure": 2.0}
    canaries = [canary, canary | {"id": "b", "inserted": False, "exposure": 1.0}]
    series = {"train/loss": [[1, 2.0], [2, 1.0]]}
    swept(tmp_path / "a", **SAMPLE)
    cell(tmp_path / "b", 0, result={"series": series, "canaries": canaries})
    assert call("compare", "--stores", "a,b", "--out", "made").code == 0
    assert {"exposure.png", "training.png"} <= {path.name for path in (tmp_path / "made").iterdir()}
    assert "rows of b: 1 run, from the 1 of 5 runs" in (tmp_path / "made" / "report.md").read_text()
    assert call("compare", "--stores", "a", "--out", "made").code == 0
    assert not (tmp_path / "made" / "training.png").exists()


def test_a_store_of_trainings_has_nothing_to_compare(call: Call, tmp_path: Path) -> None:
    Store(tmp_path / "a", "tiny").write(Cell("", {"kind": "train"}), {"row": ROW})
    ended = call("compare", "--stores", "a")
    assert ended.code == 2
    assert "no finished run with canaries in a" in ended.err


def test_a_contradicted_run_decides_how_the_command_ends(call: Call, tmp_path: Path) -> None:
    swept(tmp_path / "a", **SAMPLE, verdict="contradicted", guarantee="eps", delta=1e-5)
    ended = call("compare", "--stores", "a", "--out", "made")
    assert ended.code == 3
    assert "the lower bound of sample C=1 exceeds the epsilon it claims" in ended.err
    assert (tmp_path / "made" / "report.md").exists()


def test_no_password_gets_into_a_report(call: Call, tmp_path: Path) -> None:
    words = "dpclip audit --note http://me:secret@runs:5000"
    write(tmp_path / "a", [ROW], Provenance(command=words))
    uri = "http://me:secret@runs.example:5000"
    ended = call("compare", "--tracking_uri", uri.replace("http", "foo"))
    assert ended.code == 2
    assert "secret" not in ended.err
    assert call("compare", "--stores", "a", "--runs", "no http://me:secret@x,none").code == 2
    assert call("compare", "--stores", "a", "--out", "made").code == 0
    for path in (tmp_path / "made").iterdir():
        assert b"secret" not in path.read_bytes(), path


def test_json_rows_name_their_source(call: Call, tmp_path: Path) -> None:
    swept(tmp_path / "a")
    ended = call("compare", "--stores", "a", "--quiet", "--json")
    (row,) = json.loads(ended.out)
    assert (row["source"], row["exposure"], row["eps"], ended.err) == ("a", 2.0, "inf", "")


@pytest.mark.parametrize(
    ("word", "found"),
    [("b", True), ("a c", True), ("c a", False), ("", True), ("a a", False), ("ab", False)],
)
def test_words_are_found_in_their_order(word: str, found: bool) -> None:
    assert _in_order(word.split(), ["a", "b", "c"]) == found


def test_rows_rebuilt_from_a_server_are_chosen_by_the_same_words(call: Call, store: Path) -> None:
    """And it is told which columns they lack, not that they lack what every run logs."""
    experiment = open_experiment(store, "tiny")
    sweep = start_sweep(experiment, "sweep")
    noised = ROW | SAMPLE | {"sigma": 1.0, "delta": 1e-5, "exp_2": 1.5, "slots": "position"}
    grouped = ROW | SAMPLE | {"clip": "microbatch", "mb": 4, "slots": "random", "acc": 0.5}
    for row in (ROW, noised, grouped):
        log_run(experiment, row, sweep_id=sweep)
    finish(experiment, sweep)
    uri = f"sqlite:///{store}/mlflow.db"
    for words, arm in (
        ("noise 1", "sample clip:1 noise 1"),
        ("sample clip:1", "sample clip:1 noise 1"),
        ("none", "none"),
        ("microbatch:4:random clip:1", "microbatch:4:random clip:1"),
    ):
        ended = call("compare", "--tracking_uri", uri, "--runs", words, "--json", "--quiet")
        assert [row["arm"] for row in json.loads(ended.out)] == [arm], words
    out = call("compare", "--tracking_uri", uri).out
    (lacking,) = re.findall(r"fetched: four digits, without (.*)\.\n", out)
    assert "exp_ceiling" in lacking.split(", ")
    assert not {"exp_2", "exposure", "acc"} & set(lacking.split(", "))
    assert "exp_4" in lacking.split(", ")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    """A real store of three arms and two seeds, which no test changes."""
    from dpclip.cli import main

    store = tmp_path_factory.mktemp("audited") / "store"
    store.mkdir()
    shutil.copy(migrated, store / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.syspath_prepend(Path(__file__).parent)
        words = (*AUDIT, *ARMS, "--seeds", "2", "--store", str(store), "--quiet")
        assert main(words) == 0
    return store


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_report_is_the_audits_own(call: Call, tmp_path: Path, audited: Path) -> None:
    ended = call("compare", "--stores", str(audited), "--out", "compared")
    assert (ended.code, ended.err) == (0, "")
    made = tmp_path / "compared"
    assert (made / "summary.csv").read_bytes() == (audited / "summary.csv").read_bytes()
    for name in ("tradeoff.png", "exposure.png", "roc.png", "groups.png"):
        assert (made / name).read_bytes() == (audited / name).read_bytes(), name
    report, before = (made / "report.md").read_text(), (audited / "report.md").read_text()
    start, method = before.split("## How it was measured")
    assert report.startswith(start)
    assert method.split("## Run it again")[0].strip() in report
    command = method.split("```")[1].strip()
    again = shlex.join(["dpclip", "compare", "--stores", str(audited), "--out", "compared"])
    assert f"```\n{command}\n{again}\n```" in report
    page = (made / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == report.count("](") - report.count("](http")
    assert not re.search(r'(src|href)="(?!data:)', page)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ("none", 2),
        ("sample", 4),
        ("sample C=1", 2),
        ("sample clip:1", 2),
        ("min", 4),
        ("microbatch 2", 4),
        ("none,seed1", 6),
        ("tiny", 10),
    ],
)
def test_runs_are_chosen_by_words(call: Call, audited: Path, runs: str, found: int) -> None:
    ended = call("compare", "--stores", str(audited), "--runs", runs, "--json", "--quiet")
    assert len(json.loads(ended.out)) == found


@pytest.mark.slow
def test_a_server_is_read_and_its_runs_are_chosen_by_id(call: Call, audited: Path) -> None:
    uri = f"sqlite:///{audited}/mlflow.db"
    ended = call("compare", "--tracking_uri", uri)
    assert (ended.code, ended.err) == (0, "")
    sweep = re.search(r"from summary.csv of sweep ([0-9a-f]{32}) in MLflow", ended.out)
    assert sweep
    from reports.tracking import open_experiment

    experiment = open_experiment(audited, "tiny")
    runs = experiment.client.search_runs([experiment.id], filter_string="params.clip = 'none'")
    for ids, count in (
        (sweep[1], 10),
        (sweep[1][:8], 10),
        (runs[0].info.run_id, 1),
        (f"{runs[0].info.run_id[:12]},microbatch", 5),
    ):
        ended = call("compare", "--tracking_uri", uri, "--runs", ids, "--json", "--quiet")
        assert len(json.loads(ended.out)) == count, ids


@pytest.mark.slow
def test_a_store_of_which_only_the_database_is_left(
    call: Call, tmp_path: Path, audited: Path
) -> None:
    (tmp_path / "moved").mkdir()
    shutil.copy(audited / "mlflow.db", tmp_path / "moved")
    ended = call("compare", "--stores", "moved", "--json")
    assert ended.code == 0
    assert len(json.loads(ended.out)) == 10
    assert "moved: 10 runs, from summary.csv of sweep" in ended.err  # its files lie where they lay
