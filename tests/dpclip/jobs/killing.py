"""Killing a training process again and again, until it gets through."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.dpclip.jobs.training import Job

ROOT = Path(__file__).parents[3]
_PATIENCE = 120.0  # seconds without a step


class Survived(NamedTuple):
    """What came of a run.

    Attributes:
        result: see `training.result`.
        steps: numbers of the steps it has taken, in order, repeated ones too.
        kills: how often it was killed.
        unfinished: how many of the kills hit it while it was saving.
    """

    result: dict[str, Any]
    steps: list[int]
    kills: int
    unfinished: int


def survive(folder: Path, jobs: list[Job], seed: int, apart: int) -> Survived:
    """Returns what came of a run that is killed in all its starts but the last.

    Args:
        folder: of the checkpoints.
        jobs: the run as it is at each start.
        seed: of the moments.
        apart: a start is killed after 0 .. apart new steps and up to 50 ms.
    """
    moments, log, unfinished = random.Random(seed), folder.with_suffix(".log"), 0
    for job in jobs[:-1]:
        process = start(folder, job)
        _wait(process, log, len(_steps(log)) + moments.randint(0, apart))
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        _, said = process.communicate()
        assert process.returncode == -9, said  # it must not have been through, nor failed
        unfinished += any(folder.glob(".writing-*"))
    process = start(folder, jobs[-1])
    _, said = process.communicate(timeout=10 * _PATIENCE)
    assert process.returncode == 0, said
    found = json.loads(folder.with_suffix(".json").read_text())
    return Survived(found, _steps(log), len(jobs) - 1, unfinished)


def start(folder: Path, job: Job) -> subprocess.Popen[str]:
    words = json.dumps(dataclasses.asdict(job))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.dpclip.jobs.training", str(folder), words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait(process: subprocess.Popen[str], log: Path, steps: int) -> None:
    """Waits until the run has taken so many steps and one more."""
    until = time.monotonic() + _PATIENCE
    while len(_steps(log)) <= steps and process.poll() is None:
        assert time.monotonic() < until, "no step in two minutes"
        time.sleep(0.001)


def _steps(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []
