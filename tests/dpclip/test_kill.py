"""A run that is killed with SIGKILL at random moments ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.dpclip.jobs.killing import ROOT, survive
from tests.dpclip.jobs.training import Job


@pytest.mark.slow
def test_killed_three_times(tmp_path):
    """With and without workers that run ahead; every bit of weights, moments and generators."""
    once = survive(tmp_path / "once", [Job(epochs=5)], 0, 0)
    jobs = [Job(epochs=5, workers=workers) for workers in (0, 2, 2, 0)]
    killed = survive(tmp_path / "killed", jobs, seed=1, apart=12)
    assert killed.result == once.result
    assert killed.result["steps"] == 50 and once.steps == list(range(1, 51))
    assert sorted(set(killed.steps)) == once.steps
    assert len(killed.steps) <= 50 + killed.kills  # a step is repeated if it was not saved yet


@pytest.mark.slow
def test_killed_secure_run_counts_what_is_lost(tmp_path):
    folder = tmp_path / "secure"
    jobs = [Job(epochs=5, secure=True, every=4)] * 2
    killed = survive(folder, jobs, seed=2, apart=12)
    lines = (folder / "spent.jsonl").read_text().splitlines()
    assert killed.result["steps"] == 50
    assert killed.result["history"] == [[1.0, 0.1, len(lines)]]
    assert len(killed.steps) <= len(lines) <= len(killed.steps) + killed.kills


def together(folder, what: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs two ranks to their ends."""
    words = [sys.executable, "-m", "tests.dpclip.jobs.ranks", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*words, str(rank), what], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    return [
        subprocess.CompletedProcess(words, rank.returncode, stderr=text)
        for rank, text in zip(ranks, said, strict=True)
    ]


@pytest.mark.dist
@pytest.mark.slow
def test_killed_ranks_go_on_each_with_its_own_dropout(tmp_path):
    assert [rank.returncode for rank in together(tmp_path, "stop")] == [-9, -9]
    assert [rank.stderr for rank in together(tmp_path, "go-on") if rank.returncode] == []
    for rank in range(2):
        once, killed = (
            json.loads((tmp_path / f"{name}-{rank}.json").read_text())
            for name in ("once", "killed")
        )
        if rank:  # buffers are those of the first rank
            del once["tensors"][0], killed["tensors"][0]
        assert killed == once and once["steps"] == 10
    names = sorted(path.name for path in (tmp_path / "killed").glob("*-step-*"))
    assert names == ["000002-step-6", "000003-step-9"]
