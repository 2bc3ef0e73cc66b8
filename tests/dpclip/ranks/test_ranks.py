"""N ranks train as N virtual cores do, and a job in which one fails ends and says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import chi2

from tests.dpclip.ranks.runs import RUNS, train

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.dist


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)


def torchrun(count: int, *words: str, interval: float = 0.1) -> subprocess.CompletedProcess[str]:
    """Runs a module on so many ranks, looking after them every `interval` seconds."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--monitor-interval={interval}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, f"--nproc-per-node={count}", "-m", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.fixture(scope="module", params=[2, 4], ids="{} ranks".format)
def ranks(request, tmp_path_factory) -> tuple[int, Path]:
    """All runs, trained by this many ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(request.param, "tests.dpclip.ranks.job", str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, folder


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_ranks_are_virtual_cores(ranks, run):
    """Weights, diagnostics and epsilon; and all ranks hold the same bits."""
    count, folder = ranks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*supports no epsilon.*")
        model, engine = train(run, count)
    found = [load_file(folder / f"{run.name}.{r}.safetensors") for r in range(count)]
    for name, wanted in model.state_dict().items():
        assert float((found[0][name] - wanted).abs().max()) < 1e-6
        assert all(torch.equal(found[0][name], other[name]) for other in found)
    said = json.loads((folder / f"{run.name}.0.json").read_text())
    assert said["steps"] == engine.steps == run.steps
    assert said["epsilon"] == engine.get_epsilon(1e-5)
    if run.groups in ("position", "fixed"):
        norms, wanted = torch.tensor(said["norms"]), engine.diagnostics().norms
        if run.size is not None:  # virtual cores come by their longest records
            norms, wanted = norms.sort().values, wanted.sort().values
        assert torch.allclose(norms, wanted, rtol=1e-4)
        assert said["guarantee"] == engine.guarantee


def test_noise_does_not_grow_with_the_ranks(ranks):
    """Every rank adds the whole noise to the sum of all; chi-square at 1e-3, both sides."""
    count, folder = ranks
    run = RUNS[-1]
    start = train(run.__class__(**vars(run) | {"sigma": 0.0}), count)[0].state_dict()
    after = load_file(folder / f"{run.name}.0.safetensors")
    noise = torch.cat([(after[n] - start[n]).flatten() for n in start]) / 0.2  # learning rate
    std = run.sigma * 2 * 0.3 / count  # sigma, sensitivity 2 C, D
    squares = float((noise.double() / std).square().sum())
    low, high = chi2.ppf([5e-4, 1 - 5e-4], len(noise))
    assert low < squares < high
    assert abs(float(noise.mean())) < 3.3 * std / len(noise) ** 0.5


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raises", ["a record that cannot be read", "Rank 0 of 2 lost the others"]),
        ("killed", ["Rank 0 of 2 lost the others", "SIGKILL"]),
        ("early", ["Rank 0 of 2 lost the others"]),
        ("skips", ["Rank 1 steps without a backward"]),
        ("lags", ["A second batch was drawn from the loader before the optimizer step"]),
        ("twice", ["used once"]),
        ("draws", ["A second batch was drawn"]),
    ],
)
def test_a_rank_that_fails_ends_the_job(what, words):
    # The launcher ends the others as soon as it sees that one is gone: give them time to tell.
    interval = 6.0 if any("lost the others" in word for word in words) else 0.1
    done = torchrun(2, "tests.dpclip.ranks.failures", what, interval=interval)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr


def test_refusals_before_training():
    done = torchrun(2, "tests.dpclip.ranks.failures", "refusals")
    assert done.returncode == 0, done.stderr[-3000:]
    for word in (
        "The ranks disagree: the seed is 0, 1",
        "The ranks disagree: noise_multiplier is 0, 0.5",
        "a rank knows its own groups only",
        "needs a loader with a DistributedSampler",
    ):
        assert done.stdout.count(word) == 2


def test_own_batches_of_each_rank():
    """A loader with a DistributedSampler and poisson_sampling=False trains, and claims nothing."""
    done = torchrun(2, "tests.dpclip.ranks.failures", "sampled")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained 8 steps: No epsilon") == 2
