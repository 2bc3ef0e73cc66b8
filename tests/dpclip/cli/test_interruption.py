"""Ctrl-C on the real thing: what is finished is kept, nothing runs on, the same command goes on."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.tracking import open_experiment

SEEDS = 6
COMMAND = "import sys; from dpclip.cli import main; sys.exit(main())"
WORDS = ("audit", "--task", "digits", "--epochs", "1", "--canaries", "2", "--references", "50")
SWEEP = (*WORDS, "--grouping", "none,sample", "--seeds", str(SEEDS), "--workers", "2", "--store")

pytestmark = pytest.mark.slow


def start(store: Path) -> subprocess.Popen[str]:
    """Starts the sweep as the leader of its own process group, as a shell does."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *SWEEP, str(store)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(store: Path) -> None:
    with start(store) as sweep:
        _, told = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, told


def cells(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (store / "cells").glob("*.json")}


def wait_for(condition: object, seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(autouse=True)
def _own_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield


@pytest.mark.parametrize("whom", ["process", "group"])
def test_ctrl_c_keeps_what_is_finished(store: Path, whom: str) -> None:
    """A terminal interrupts the whole group; `kill -INT` the one process."""
    with start(store) as sweep:
        wait_for(lambda: cells(store) or sweep.poll() is not None, 120)
        (os.kill if whom == "process" else os.killpg)(sweep.pid, signal.SIGINT)
        _, told = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, told
    assert told.strip().splitlines()[-1].startswith("dpclip: interrupted; finished runs are kept")
    assert "Traceback" not in told
    wait_for(lambda: gone(sweep.pid), 10)
    kept = cells(store)
    assert 1 <= len(kept) < 2 * SEEDS
    assert not (store / "summary.csv").exists()
    if whom == "process":
        _goes_on(store, kept)


def _goes_on(store: Path, kept: dict[str, int]) -> None:
    finish(store)
    assert {name: time for name, time in cells(store).items() if name in kept} == kept
    assert len(cells(store)) == 2 * SEEDS
    with (store / "summary.csv").open() as file:
        runs = [(row["clip"], row["seed"]) for row in csv.DictReader(file)]
    assert sorted(runs) == [(c, str(s)) for c in ("none", "sample") for s in range(SEEDS)]

    before = cells(store)
    finish(store)
    assert cells(store) == before
    experiment = open_experiment(store, "digits")
    found = experiment.client.search_runs([experiment.id], max_results=100)
    assert len(found) == 2 * SEEDS + 1


def test_ctrl_c_while_workers_are_still_importing(store: Path) -> None:
    with start(store) as sweep:
        wait_for(lambda: workers_of(sweep.pid) >= 2, 120)
        os.killpg(sweep.pid, signal.SIGINT)
        _, told = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, told
    assert "Traceback" not in told
    wait_for(lambda: gone(sweep.pid), 10)


def test_being_terminated_leaves_no_worker(store: Path) -> None:
    with start(store) as sweep:
        wait_for(lambda: workers_of(sweep.pid) >= 2, 120)
        # Stopped while it still hands a worker its work, it leaves that one to complain of that.
        time.sleep(2)
        os.kill(sweep.pid, signal.SIGTERM)
        _, told = sweep.communicate(timeout=60)
    assert sweep.returncode == 128 + signal.SIGTERM, told
    assert "Traceback" not in told
    wait_for(lambda: gone(sweep.pid), 10)


def workers_of(group: int) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            words = (path.parent / "cmdline").read_text()
        except OSError:  # it has ended since
            continue
        found += fields[2] == str(group) and "spawn_main" in words
    return found
