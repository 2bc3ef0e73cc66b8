"""Jobs that must end with a message: `torchrun ... -m tests.dpclip.ranks.failures WHAT`."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from dpclip import PrivacyEngine, clip, clip_to_min, micro_batches, per_core
from tests.dpclip.ranks.runs import data, leave


def private(
    *, seed: int = 1, noise: float = 0.0, grouping=None, weighting=None, sampler=None, poisson=True
):
    model = nn.Linear(8, 3)
    engine = PrivacyEngine(seed=seed, measure=False)
    made = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data(), batch_size=8, sampler=sampler),
        noise_multiplier=noise,
        weighting=weighting or clip(1.0),
        grouping=grouping or per_core(),
        poisson_sampling=poisson,
    )
    return engine, *made


def refusals() -> None:
    """Prints what is refused on all ranks, before anything is trained."""
    rank = dist.get_rank()
    for how in (
        {"seed": rank},
        {"noise": 0.5 * rank},
        {"grouping": micro_batches(4), "weighting": clip_to_min()},
        {"poisson": False},
    ):
        try:
            private(**how)
        except ValueError as error:
            print(error)


def main(what: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=100))
    if what == "refusals":
        refusals()
        leave()
    odd = dist.get_rank() == 1
    sampler = DistributedSampler(data()) if what == "sampled" else None
    engine, model, optimizer, loader = private(sampler=sampler, poisson=sampler is None)
    for number, (x, y) in enumerate(loader):
        if odd and number == 2:
            misbehave(what)
            if what == "early":
                break
        if not (odd and number == 2 and what == "skips"):
            nn.functional.cross_entropy(model(x), y).backward()
        if what == "twice":
            nn.functional.cross_entropy(model(x), y).backward()
        if what == "draws" and number == 0:
            continue
        if not (odd and number == 2 and what == "lags"):
            optimizer.step()
    if what == "sampled":
        assert engine.get_epsilon(1e-5) == float("inf")
        print(f"trained {engine.steps} steps: {engine.guarantee}")
        leave()


def misbehave(what: str) -> None:
    if what == "raises":
        raise ValueError("a record that cannot be read")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
