"""Twenty kills of one run: `make soak`."""

from __future__ import annotations

import pytest

from tests.dpclip.jobs.killing import survive
from tests.dpclip.jobs.training import Job

pytestmark = pytest.mark.soak
KILLS, EPOCHS = 20, 30
STEPS = 10 * EPOCHS
APART = STEPS // (KILLS + 1) - 1  # new steps between two kills, at most: none comes too late


@pytest.mark.parametrize(("every", "workers"), [(1, (0,)), (5, (2,)), (1, (0, 2, 1))], ids=str)
def test_twenty_kills(tmp_path, workers, every):
    """Weights, moments, generators and epsilon are those of a run that was never killed."""
    job = {"epochs": EPOCHS, "steered": True}
    once = survive(tmp_path / "once", [Job(**job, every=STEPS)], 0, 0)
    jobs = [Job(**job, every=every, workers=workers[i % len(workers)]) for i in range(KILLS + 1)]
    killed = survive(tmp_path / "killed", jobs, seed=every, apart=APART)
    assert killed.result == once.result and killed.result["steps"] == STEPS
    assert sorted(set(killed.steps)) == once.steps == list(range(1, STEPS + 1))
    assert len(killed.steps) <= STEPS + KILLS * every
    if every == 1:
        assert killed.unfinished  # most of the time is spent on saving


def test_twenty_kills_of_a_secure_run(tmp_path):
    folder = tmp_path / "secure"
    jobs = [Job(epochs=EPOCHS, secure=True, every=4)] * (KILLS + 1)
    killed = survive(folder, jobs, seed=3, apart=APART)
    lines = (folder / "spent.jsonl").read_text().splitlines()
    assert killed.result["steps"] == STEPS
    assert killed.result["history"] == [[1.0, 0.1, len(lines)]]
    assert STEPS < len(killed.steps) <= len(lines) <= len(killed.steps) + killed.kills
