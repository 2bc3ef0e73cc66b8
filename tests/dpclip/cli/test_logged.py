"""What people see in MLflow after an audit of two arms."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import dpclip.cli.logged
import reports.tracking
from audits.sweep import Cell
from dpclip.cli.cells import work
from dpclip.cli.logged import log_sweep, log_training
from dpclip.cli.options import Audit
from reports.tracking import open_experiment

Call = Callable[..., Any]
NAMES = ("families", "alphabet", "delta", "accountant")
SHARED = {name: getattr(Audit(), name) for name in NAMES}
SHARED |= {"task": "own_tasks:tiny", "secret": "pin {}{}", "batch_size": None, "epochs": 2}
SHARED |= {"references": 10, "canaries": 4, "alpha": 0.05, "kind": "audit", "seed": 0, "lr": 0.5}
SHARED |= {"tests": 1, "gradient_canaries": 20, "pacing": "none"}
PLAIN = {"clip": "none", "size": None, "weighting": "none", "number": None, "sigma": 0.0}
NOISED = {"clip": "sample", "size": 1, "weighting": "clip", "number": 1.0, "sigma": 1.0}


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return [Cell("x", SHARED | arm | {"slots": "position"}) for arm in (PLAIN, NOISED)]


def runs(store: Path, kind: str) -> list[Any]:
    experiment = open_experiment(store, "tiny")
    assert experiment.name == "dpclip-tiny"
    return list(experiment.client.search_runs([experiment.id], f"tags.`dpclip.kind` = '{kind}'"))


def files(run: Any) -> dict[str, Path]:
    folder = Path(unquote(run.info.artifact_uri.removeprefix("file://")))
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_is_a_parent_and_a_child_per_cell(store: Path, cells: list[Cell]) -> None:
    results = [work(cell.config, manifests=store / "manifests") for cell in cells]
    (report := store / "report.md").write_text("the report")
    link = log_sweep(store, "tiny", cells, results, [report], "the note")
    assert link == log_sweep(store, "tiny", cells, results, [report], "the note")
    assert "/#/experiments/" in link

    (parent,) = runs(store, "sweep")
    assert (parent.info.run_name, parent.info.status) == ("sweep of 2 runs", "FINISHED")
    assert not parent.data.metrics
    assert parent.data.tags["mlflow.note.content"] == "the note"
    assert list(files(parent)) == ["compare/report.md"]

    children = {run.data.params["clip"]: run for run in runs(store, "audit")}
    assert set(children) == {"none", "sample"}
    for result in results:
        _check_child(children[result["row"]["clip"]], parent.info.run_id, result["row"])
    assert children["none"].info.run_name == "none seed0"
    assert children["sample"].info.run_name == "sample seed0"
    assert "eps" not in children["none"].data.metrics
    assert math.isfinite(children["sample"].data.metrics["eps"])
    assert children["none"].data.tags["dpclip.verdict"] == "not-claimed"
    assert children["sample"].data.tags["dpclip.verdict"] == "consistent"
    assert "PRV accounting, Poisson sampling" in children["sample"].data.tags["dpclip.guarantee"]


def _check_child(run: Any, parent: str, row: dict[str, Any]) -> None:
    assert run.info.status == "FINISHED"
    tags, metrics = run.data.tags, run.data.metrics
    assert tags["mlflow.parentRunId"] == parent
    assert (tags["dpclip.unit"], tags["dpclip.sampling"]) == ("record", "poisson")
    assert (tags["dpclip.accountant"], tags["dpclip.rng"]) == ("prv", "seeded")
    assert run.data.params["canaries"] == "4"
    assert run.data.params["lr"] == "0.5"
    for name in ("acc", "exposure", "norm_pct", "auc", "eps_lb", "clipfrac", "ex_per_s", "peak_mb"):
        assert metrics[name] == pytest.approx(row[name], rel=1e-3)
    assert metrics["train/loss"] == pytest.approx(row["loss"])
    assert set(files(run)) == {
        *("config.yaml", "env.json"),
        *("audit/canaries.csv", "audit/exposure.png", "audit/report.md"),
        *("audit/repetition.png", "audit/roc.png", "audit/training.png"),
    }


def test_no_artifact_tells_a_secret(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of canaries holds ids and scores; the settings hold the format, no filling."""
    from audits.tasks import text

    small = text.load(6000)
    monkeypatch.setattr(text, "load", lambda: small)
    config = SHARED | NOISED | {"slots": "position", "task": "text", "epochs": 1, "lr": 1e-3}
    cell = Cell("x", config)
    result = work(config, manifests=store / "manifests")
    log_sweep(store, "tiny", [cell], [result], [], "")
    (run,) = runs(store, "audit")
    found = files(run)
    table = pd.read_csv(found["audit/canaries.csv"])
    assert list(table.columns) == [
        *("id", "family", "repetitions", "inserted", "exposure", "low", "high", "before"),
        *("rank", "rank_low", "extracted"),
    ]
    assert table.id[0] == "secret/1x/0"
    assert len(table) == 20
    settings = yaml.safe_load(found["config.yaml"].read_text())
    assert settings == config
    from dpclip.cli.tasks import plant, task_of

    for tokens, _ in plant(task_of(config), 4, 0).records:
        secret = bytes(tokens.tolist()).rstrip(b"\0\n")
        assert secret.startswith(b"pin ")
        assert not any(secret in path.read_bytes() for path in found.values())
        assert secret.decode() not in json.dumps(result)


def test_a_training_run_is_logged_once(store: Path, cells: list[Cell]) -> None:
    result = work(cells[1].config | {"kind": "train"})
    for _ in range(2):
        log_training(store, "tiny", cells[1], result)
    (run,) = runs(store, "train")
    assert set(files(run)) == {"config.yaml", "env.json"}
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_server_that_goes_away_costs_no_result(
    store: Path, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = work(cells[0].config, manifests=store / "manifests")

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as told:
        patch.setattr(dpclip.cli.logged, "log_run", gone)
        patch.setattr(reports.tracking, "fail", gone)
        log_sweep(store, "tiny", cells[:1], [result], [], "")
    assert "MLflow did not take the runs: no answer. All results are kept in" in str(told.value)
    log_sweep(store, "tiny", cells[:1], [result], [], "")
    assert len(runs(store, "audit")) == 1


@pytest.mark.parametrize("reachable", [True, False])
def test_logging_that_broke_off_leaves_no_run_twice(
    store: Path, cells: list[Cell], monkeypatch: pytest.MonkeyPatch, reachable: bool
) -> None:
    """It breaks off in the second run, with a server that takes the news of it, or does not."""
    results = [work(cell.config, manifests=store / "manifests") for cell in cells]
    log = MlflowClient.log_artifacts
    taken: list[str] = []

    def away(client: MlflowClient, run_id: str, *more: Any) -> None:
        if taken:
            if not reachable:
                patch.setattr(MlflowClient, "set_terminated", away)
            raise MlflowException("http://me:secret@runs gives no answer")
        taken.append(run_id)
        log(client, run_id, *more)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as told:
        patch.setattr(MlflowClient, "log_artifacts", away)
        log_sweep(store, "tiny", cells, results, [], "")
    assert "MLflow did not take the runs: http://runs gives no answer." in str(told.value)
    assert not any(
        "secret" in run.data.tags.get("dpclip.error", "") for run in runs(store, "audit")
    )
    log_sweep(store, "tiny", cells, results, [], "")
    (parent,) = runs(store, "sweep")
    children = runs(store, "audit")
    assert sorted(run.data.params["clip"] for run in children) == ["none", "sample"]
    assert taken[0] in [run.info.run_id for run in children]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert not any("dpclip.error" in run.data.tags for run in [parent, *children])
    memory = json.loads((store / "logged.json").read_text())
    assert list(memory.values()) == [parent.info.run_id]


def test_what_is_gone_is_logged_again(store: Path, cells: list[Cell]) -> None:
    """Somebody deleted the run, or the whole database."""
    result = work(cells[1].config | {"kind": "train"})
    for left in (0, 1):
        log_training(store, "tiny", cells[1], result)
        (run,) = runs(store, "train")
        assert len(json.loads((store / "logged.json").read_text())) == 1
        if not left:
            open_experiment(store, "tiny").client.delete_run(run.info.run_id)
            assert runs(store, "train") == []


def test_a_run_has_its_own_times_and_its_data(store: Path, cells: list[Cell]) -> None:
    results = [work(cell.config, manifests=store / "manifests") for cell in cells]
    times = [result["times"] for result in results]
    assert all(0 < last - began < 600 for began, last in times)
    assert times[0][1] <= times[1][0]
    log_sweep(store, "tiny", cells, results, [], "the note")
    children = {run.data.params["clip"]: run for run in runs(store, "audit")}
    for (began, last), clip in zip(times, ("none", "sample"), strict=True):
        info = children[clip].info
        assert (info.start_time, info.end_time) == (int(began * 1000), int(last * 1000))
    (parent,) = runs(store, "sweep")
    assert parent.info.start_time == children["none"].info.start_time
    assert parent.info.end_time == children["sample"].info.end_time
    digests = {run.inputs.dataset_inputs[0].dataset.digest for run in children.values()}
    assert [len(digest) for digest in digests] == [36]  # the same records in both


def test_results_of_an_older_version_are_logged_without(store: Path, cells: list[Cell]) -> None:
    result = work(cells[1].config | {"kind": "train"})
    old = {key: value for key, value in result.items() if key not in ("times", "data")}
    log_training(store, "tiny", cells[1], old)
    (run,) = runs(store, "train")
    assert run.inputs.dataset_inputs == []
    assert run.info.start_time > result["times"][1] * 1000


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_memory_is_no_reason_to_fail(
    store: Path, cells: list[Cell], content: str
) -> None:
    (store / "logged.json").write_text(content)
    result = work(cells[0].config | {"kind": "train"})
    log_training(store, "tiny", cells[0], result)
    assert cells[0].key in json.loads((store / "logged.json").read_text())
