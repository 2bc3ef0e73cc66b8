import csv
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import dpclip.cli.sweep
from audits.search import SEEDS
from audits.sweep import Result
from canaries import manifest
from dpclip.cli.cells import work
from dpclip.mechanism import Mechanism

Call = Callable[..., Any]

QUICK = ("--epochs", "1", "--canaries", "2", "--references", "10", "--workers", "0")
RDP = ("--accountant", "rdp")  # the quick one
TINY = ("audit", "--task", "own_tasks:tiny", *QUICK, *RDP)
COLUMNS = (
    *("task", "clip", "weighting", "C", "sigma", "mb", "seed", "q", "steps", "lr", "delta", "acc"),
    *("exposure", "exp_low", "exp_high", "exp_1", "exp_2", "exp_4", "exp_8", "exp_16", "norm_pct"),
    *("auc", "eps", "eps_lb", "guarantee", "verdict", "clipfrac", "ex_per_s", "peak_mb"),
    *("auc_low", "auc_high", "auc_before", "before_p", "coin_p", "coin_fired", "n_tests"),
    *("eps_lb_by", "eps_lb_ceiling", "eps_lb_expected", "manifest", "lb_manifest"),
)


def rows(store: Path) -> list[dict[str, str]]:
    with (store / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The configs of the cells that were really run."""
    ran: list[Mapping[str, Any]] = []

    def count(config: Mapping[str, Any], manifests: Path) -> Result:
        ran.append(config)
        return work(config, manifests=manifests)

    monkeypatch.setattr(dpclip.cli.sweep, "work", count)
    return ran


def test_a_sweep_writes_one_row_per_run(call: Call, store: Path) -> None:
    words = ("--grouping", "none,sample,core:2:fixed", "--noise", "0,1", "--seeds", "2")
    ended = call(*TINY, *words, "--store", str(store))
    assert (ended.code, ended.err) == (0, "")
    found = rows(store)
    assert len(found) == 10
    assert {row["clip"] for row in found} == {"none", "sample", "core"}
    assert {row["seed"] for row in found} == {"0", "1"}
    assert all(name in found[0] for name in COLUMNS)
    for row in found:
        finite = row["sigma"] == "1.0"
        assert (row["eps"] != "inf") == finite
        assert row["verdict"] == ("consistent" if finite else "not-claimed")
    report = (store / "report.md").read_text()
    assert "Skipped: none noise 1: no group is bounded by itself" in report
    assert "dpclip audit --task own_tasks:tiny" in report
    assert (store / "task").read_text() == "tiny\n"
    assert not [path for path in store.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--grouping", "bogus"), "Unknown grouping 'bogus'"),
        (("--weighting", "bogus"), "Unknown weighting 'bogus'"),
        (("--noise", "-1"), "noise -1"),
        (("--grouping", "none", "--noise", "1"), "No combination"),
        (("--task", "bogus"), "Unknown task 'bogus'"),
        (("--search", "--first-seed", "999", "--seeds", "2"), "Seed 1000 is one of the learning"),
        (("--delta", "1e-13"), "not accurate below 1e-12"),
        (("--loop", "a:b"), "a loop is for --self-test"),
        (("--noise", "1", "--gradient-canaries", "19"), "19 gradient canaries for a model of"),
        (("--noise", "1e-200"), "too small for any accountant"),
        (("--canaries", "1"), "1 canaries of repetition 1; expected at least 2"),
        (("--task", "nowhere:task"), "cannot be loaded"),
        (("--task", "own_tasks:normalized"), "BatchNorm1d"),
        (("--task", "own_tasks:forgetful"), "not in the optimizer"),
        (("--task", "own_tasks:averaged"), "one loss for each"),
        (("--task", "own_tasks:no_grid", "--search", "true"), "no learning rates"),
        (("--task", "digits", "--references", "2000"), "a pool of 120 images"),
        (("--task", "text", "--secret", "{} is it"), "begins with a hole"),
        (("--families", "bogus"), "no canary family 'bogus'"),
        (("--seeds", "0"), "--seeds 0"),
        (("--first_seed", "-1"), "--first_seed -1"),
        (("--accountant", "gdp"), "gdp"),
        (("--grouping", "microbatch:8", "--batch_size", "4"), "needs batches of 8 or more"),
        (("--grouping", "core:8", "--batch_size", "4"), "needs batches of 8 or more"),
    ],
)
def test_what_cannot_be_done_costs_one_sentence_and_no_store(
    call: Call, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    ended = call(*TINY, *words, "--store", "new/store")
    assert ended.code == 2
    assert ended.err.startswith("dpclip: ")
    assert told in ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_made_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = call(*TINY, "--store", "file/store")
    assert ended.code == 2
    assert "file/store cannot be written (Not a directory)" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_store_of_another_task_is_refused(call: Call, store: Path) -> None:
    (store / "task").write_text("digits\n")
    ended = call(*TINY, "--store", str(store))
    assert ended.code == 2
    assert "holds runs of task 'digits', not 'tiny'" in ended.err


def test_a_run_that_diverges_is_a_failure(call: Call, store: Path) -> None:
    ended = call(
        *TINY, "--lr", "1e38", "--grouping", "none", "--epochs", "3", "--store", str(store)
    )
    assert ended.code == 1
    assert "none seed 0: The loss is" in ended.err
    assert "Use a smaller one" in ended.err
    assert not (store / "summary.csv").exists()


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_a_finished_run_whose_declaration_was_touched_is_not_reported(
    call: Call, store: Path, change: str
) -> None:
    words = (*TINY, "--grouping", "none", "--store", str(store))
    assert call(*words).code == 0
    (path,) = (store / "manifests").rglob("*.json")
    if change == "deleted":
        path.unlink()
    else:
        declared = manifest.read(path)
        path.unlink()
        manifest.write(path, declared | {"alpha": 0.5})
    ended = call(*words)
    assert ended.code == 1
    assert "the finished run was judged by" in ended.err


def test_a_task_that_was_changed_is_run_again(
    call: Call, store: Path, counted: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TINY, "--grouping", "none", "--store", str(store))
    assert call(*words).code == 0
    own = sys.modules["own_tasks"]
    right = own.records
    monkeypatch.setattr(own, "records", lambda n, seed: right(n, seed + 100))
    assert call(*words).code == 0
    assert len(counted) == 2


def test_a_contradicted_claim_is_told_after_everything_is_written(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaky(config: Mapping[str, Any], manifests: Path) -> Result:
        result = work(config, manifests=manifests)
        if config["sigma"]:
            result["row"] |= {"eps": 0.1, "eps_lb": 2.0, "verdict": "contradicted"}
        return result

    monkeypatch.setattr(dpclip.cli.sweep, "work", leaky)
    words = ("--grouping", "none,sample", "--noise", "0,1", "--store", str(store))
    ended = call(*TINY, *words)
    assert ended.code == 3
    assert "the lower bound of sample clip:1 noise 1 exceeds the epsilon it claims" in ended.err
    assert "CONTRADICTED" in (store / "report.md").read_text()
    assert len(rows(store)) == 3
    assert call(*TINY, *words).code == 3  # kept cells say it again

    def away(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    (store / "logged.json").unlink()
    monkeypatch.setattr(MlflowClient, "create_run", away)
    ended = call(*TINY, *words)
    assert ended.code == 3  # and not 1
    assert "MLflow did not take the runs: no answer. All results are kept" in ended.err
    assert "the lower bound of sample clip:1 noise 1 exceeds" in ended.err


@pytest.mark.parametrize("grouping", ["sample", "core:4:fixed"])
def test_noise_that_is_much_too_small_ends_with_code_3(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch, grouping: str
) -> None:
    """Nothing is told what is wrong: the canaries see it."""
    right = Mechanism.std
    monkeypatch.setattr(Mechanism, "std", lambda *given: right(*given) / 8)
    words = ("--task", "digits", "--grouping", grouping, "--weighting", "clip:0.1", "--noise", "1")
    ended = call("audit", *QUICK, *RDP, *words, "--epochs", "2", "--store", str(store))
    assert ended.code == 3
    assert "exceeds the epsilon it claims" in ended.err
    (row,) = rows(store)
    assert (row["verdict"], row["eps_lb_by"]) == ("contradicted", "gradient canaries")
    assert float(row["eps_lb"]) > float(row["eps"])


def test_an_interrupted_sweep_goes_on_where_it_was(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch, counted: list[Mapping[str, Any]]
) -> None:
    counting = dpclip.cli.sweep.work

    def interrupted(config: Mapping[str, Any], manifests: Path) -> Result:
        if len(counted) == 2:
            raise KeyboardInterrupt
        return counting(config, manifests=manifests)

    words = (*TINY, "--grouping", "none,sample", "--seeds", "2", "--store", str(store))
    with monkeypatch.context() as patch:
        patch.setattr(dpclip.cli.sweep, "work", interrupted)
        ended = call(*words)
    assert (ended.code, len(counted)) == (130, 2)
    assert "interrupted; finished runs are kept" in ended.err
    kept = {path: path.stat().st_mtime_ns for path in (store / "cells").iterdir()}
    assert len(kept) == 2

    assert call(*words).code == 0
    assert len(counted) == 4
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert len(rows(store)) == 4

    assert call(*words).code == 0
    assert len(counted) == 4


@pytest.mark.parametrize("content", ["", '{"config": ', "[]", '{"result": {}}', "null"])
def test_a_damaged_cell_is_run_again(
    call: Call, store: Path, counted: list[Mapping[str, Any]], content: str
) -> None:
    words = (*TINY, "--grouping", "none", "--store", str(store))
    assert call(*words).code == 0
    (cell,) = (store / "cells").iterdir()
    cell.write_text(content)
    assert call(*words).code == 0
    assert len(counted) == 2
    assert json.loads(cell.read_text())["result"]["row"]["clip"] == "none"


def test_what_does_not_change_a_result_runs_nothing_again(
    call: Call, store: Path, counted: list[Mapping[str, Any]]
) -> None:
    words = (*TINY, "--store", str(store))
    assert call(*words, "--grouping", "none", "--seeds", "2").code == 0
    assert call(*words, "--grouping", "none,sample").code == 0
    assert len(counted) == 3


def test_a_search_uses_the_best_rate_of_each_arm(
    call: Call, store: Path, counted: list[Mapping[str, Any]]
) -> None:
    words = ("--grouping", "none,sample", "--search", "true", "--seeds", "2", "--store", str(store))
    assert call(*TINY, *words).code == 0
    tried = [config for config in counted if config["kind"] == "search"]
    assert [config["lr"] for config in tried] == [0.1, 0.1, 0.5, 0.5] * 2
    assert {config["seed"] for config in tried} == set(SEEDS)
    assert {float(row["lr"]) for row in rows(store)} <= {0.1, 0.5}
    assert "the best of 2 (0.1, 0.5)" in (store / "report.md").read_text()


def test_two_canaries_per_tier_are_enough_to_run(call: Call, store: Path) -> None:
    """Their coins may leave no inserted canary to draw a picture of."""
    ended = call(*TINY, "--canaries", "2", "--seeds", "6", "--store", str(store))
    assert (ended.code, ended.err) == (0, "")


def test_the_demo_is_the_digits_with_a_search(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(dpclip.cli.sweep, "audit", lambda chosen, words: seen.append(chosen))
    assert call("demo", "--seeds", "2", "--store", str(store)).code == 0
    (chosen,) = seen
    assert (chosen.task, chosen.search, chosen.seeds, chosen.store) == ("digits", True, 2, store)
