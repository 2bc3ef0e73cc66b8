"""Sweeps into a tracking server, and several at once: the same runs, and all of them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from dpclip.cli.logged import log_sweep
from reports.tracking import open_experiment

ROOT = Path(__file__).parents[3]
JOB = Path(__file__).with_name("logging_jobs.py")
JOBS = import_module("tests.dpclip.cli.logging_jobs")
OWN = frozenset({"mlflow.parentRunId", "mlflow.artifactLocation"})


def seen(store: Path) -> dict[str, Any]:
    """Returns what the store or the server tells of each run, by name."""
    experiment = open_experiment(store, "tiny")
    client = experiment.client
    runs = client.search_runs([experiment.id], "tags.`dpclip.kind` = 'audit'", max_results=100)
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {
        run.info.run_name: {
            "params": run.data.params,
            "metrics": run.data.metrics,
            "tags": {k: v for k, v in run.data.tags.items() if k not in OWN},
            "data": [one.dataset.to_dictionary() for one in run.inputs.dataset_inputs],
            "times": (run.info.start_time, run.info.end_time, run.info.status),
            "loss": [
                (p.step, p.value) for p in client.get_metric_history(run.info.run_id, "train/loss")
            ],
            "files": sorted(f.path for f in client.list_artifacts(run.info.run_id)),
        }
        for run in runs
    }


def parents(store: Path) -> list[Any]:
    experiment = open_experiment(store, "tiny")
    return list(experiment.client.search_runs([experiment.id], "tags.`dpclip.kind` = 'sweep'"))


def at_once(store: Path, gate: Path) -> None:
    """Two processes log four runs each, from the same moment on."""
    gate.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(JOB), str(store), str(gate)]
    jobs = [subprocess.Popen([*words, first, "4"], env=environment) for first in ("0", "4")]
    try:
        deadline = time.monotonic() + 180
        while len(list(gate.glob("ready *"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        (gate / "open").touch()
        assert [job.wait(180) for job in jobs] == [0, 0]
    finally:
        for job in jobs:
            job.kill()


def check_all_there(store: Path) -> None:
    found = seen(store)
    assert sorted(found) == [f"sample seed{seed}" for seed in range(8)]
    for seed in range(8):
        told = found[f"sample seed{seed}"]
        assert told["loss"] == [(step, seed + 1 / step) for step in range(1, JOBS.POINTS + 1)]
        assert told["metrics"]["exposure"] == pytest.approx(1 + seed / 8, rel=1e-3)
        assert told["times"][2] == "FINISHED"
        assert told["files"] == ["config.yaml", "env.json"]
    notes = sorted(parent.data.tags["mlflow.note.content"] for parent in parents(store))
    assert notes == ["from 0", "from 4"]
    assert len(json.loads((store / "logged.json").read_text())) == 2


@pytest.mark.slow
def test_two_processes_on_a_store_without_a_database_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "new").mkdir()
    at_once(tmp_path / "new", tmp_path / "gate")
    check_all_there(tmp_path / "new")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, free_port: Any
) -> Iterator[str]:
    """The address of a tracking server that keeps the files as well."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, folder / "mlflow.db")
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    words += ["--artifacts-destination", str(folder / "files")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(words, env=environment, start_new_session=True, **quiet) as running:
        try:
            deadline = time.monotonic() + 120
            while not answers(port) and time.monotonic() < deadline:
                assert running.poll() is None
                time.sleep(0.25)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(running.pid, 15)


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False


@pytest.mark.ui
@pytest.mark.slow
def test_a_server_gets_what_a_store_of_its_own_gets(
    server: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells, results = JOBS.sweep(0, 3)
    (report := tmp_path / "report.md").write_text("the report")
    log_sweep(store, "tiny", cells, results, [report], "the note")
    wanted = seen(store)
    assert len(wanted) == 3

    # A store that has logged into its own database logs into a server that is chosen later.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    capsys.readouterr()
    link = log_sweep(store, "tiny", cells, results, [report], "the note")
    assert capsys.readouterr().out == ""  # which programs read
    assert link.startswith(f"{server}/#/experiments/")
    assert "viewStateShareKey=trade-off" in link
    assert seen(store) == wanted
    (parent,) = parents(store)
    client = open_experiment(store, "tiny").client
    assert [f.path for f in client.list_artifacts(parent.info.run_id, "compare")] == [
        "compare/report.md"
    ]
    assert log_sweep(store, "tiny", cells, results, [report], "the note") == link
    assert len(parents(store)) == 1


@pytest.mark.ui
@pytest.mark.slow
def test_two_processes_on_a_server_lose_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither finds the experiment, if the other test has not made it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = open_experiment(tmp_path, "tiny").client
    old = client.get_experiment_by_name("dpclip-tiny")
    client.rename_experiment(old.experiment_id, f"before-{old.experiment_id}")
    (tmp_path / "store").mkdir()
    at_once(tmp_path / "store", tmp_path / "gate")
    check_all_there(tmp_path / "store")
