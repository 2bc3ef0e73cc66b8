"""A small training run that is stopped and goes on, here or in a process that somebody kills.

`python -m tests.dpclip.jobs.training FOLDER JOB` (JSON) writes FOLDER.json when it is through, and
to FOLDER.log a line for each step it has taken.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dpclip import PrivacyEngine, clip, micro_batches, quantile
from dpclip.checkpoints import Checkpoints

RECORDS, BATCH = 160, 16
OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.02, weight_decay=1e-3, amsgrad=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True)
class Job:
    """One training run of epochs * 10 steps.

    Attributes:
        epochs: how many.
        workers: processes that load data.
        persistent: whether they stay.
        transform: whether records are changed with the global generators.
        poisson: whether batches are drawn.
        shuffle: whether given batches are.
        own: whether they are from a generator of their own.
        secure: whether the noise is.
        steered: whether the weighting has a state.
        tied: whether two layers share a weight.
        optimizer: a name in OPTIMIZERS.
        every: steps between checkpoints.
        outside: whether a checkpoint is saved after each epoch instead.
        decay: "step" or "epoch", after which the learning rate falls.
    """

    epochs: int = 3
    workers: int = 0
    persistent: bool = False
    transform: bool = False
    poisson: bool = True
    shuffle: bool = False
    own: bool = False
    secure: bool = False
    steered: bool = False
    tied: bool = False
    optimizer: str = "adam"
    every: int = 1
    outside: bool = False
    decay: str = "step"


class Records(Dataset):
    """Vectors, which a transform changes."""

    def __init__(self, transform: bool) -> None:
        made = torch.Generator().manual_seed(3)
        self.x = torch.randn(RECORDS, 8, generator=made)
        self.y = torch.randint(3, (RECORDS,), generator=made)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int):
        x = self.x[i]
        if self.transform:
            x = x + random.random() + np.random.rand() + torch.rand(())
        return x, self.y[i]


class Model(nn.Module):
    """Dropout, a buffer that training changes, perhaps a tied weight."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        if tied:
            self.again.weight = self.first.weight
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.seen += 1
        return self.last(self.drop(torch.tanh(self.again(torch.tanh(self.first(x))))))


@dataclass
class Built:
    """Everything a loop needs."""

    engine: PrivacyEngine
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]
    schedule: Any
    batches: Iterator[Any] | None = None

    def steps(self, count: int) -> None:
        """Takes steps, over epochs, and stays in the middle of the last one."""
        if self.batches is None:
            self.batches = itertools.chain.from_iterable(itertools.repeat(self.loader))
        goal = self.engine.steps + count
        while self.engine.steps < goal:
            x, y = next(self.batches)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()

    def checkpoints(self, folder: Path, **how: Any) -> Checkpoints:
        return Checkpoints(
            folder, engine=self.engine, module=self.model, optimizer=self.optimizer, **how
        )


def build(job: Job, sigma: float = 1.0) -> Built:
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    model = Model(job.tied)
    optimizer = OPTIMIZERS[job.optimizer](model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2, 15, 35, 70, 400], 0.7)
    seed = None if job.secure else 7
    engine = PrivacyEngine("rdp", seed=seed, secure=job.secure, measure=False)
    own = torch.Generator().manual_seed(4) if job.own else None
    _, _, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(
            Records(job.transform),
            batch_size=BATCH,
            num_workers=job.workers,
            persistent_workers=job.persistent,
            shuffle=job.shuffle,
            generator=own,
        ),
        noise_multiplier=sigma,
        weighting=quantile(0.5, 0.3, count_noise=2.0) if job.steered else clip(0.5),
        grouping=micro_batches(4, slots="random"),
        max_physical_batch=8,
        poisson_sampling=job.poisson,
    )
    return Built(engine, model, optimizer, loader, schedule)


def train(
    job: Job,
    folder: Path,
    stepped: Callable[[Built], None] = lambda _: None,
    saved: Callable[[Built], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns what must not depend on how often the run was stopped.

    Args:
        job: the run.
        folder: of the checkpoints.
        stepped: called after each step, before it is saved.
        saved: called after it was saved.
    """
    made = build(job)
    engine, model, optimizer = made.engine, made.model, made.optimizer
    checkpoints = made.checkpoints(folder)
    try:
        resumed = checkpoints.resume()
        if resumed:
            made.schedule.load_state_dict(resumed.extra)
        for _ in range(resumed.epoch if resumed else 0, job.epochs):
            for x, y in made.loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                if not engine._engine.stepped:
                    continue
                stepped(made)
                if job.decay == "step":
                    made.schedule.step()
                if not job.outside:
                    checkpoints.every(job.every, made.schedule.state_dict())
                    saved(made)
            if job.decay == "epoch":
                made.schedule.step()
            if job.outside:
                checkpoints.save(made.schedule.state_dict())
                saved(made)
    finally:
        checkpoints.close()
    return result(made)


def result(made: Built) -> dict[str, Any]:
    noise = made.engine._streams_made.noise.state()
    moments = [v for s in made.optimizer.state_dict()["state"].values() for v in s.values()]
    tensors = [*made.model.state_dict().values(), *(v for v in moments if torch.is_tensor(v))]
    return {
        "tensors": [t.detach().contiguous().numpy().tobytes().hex() for t in tensors],
        "rate": made.schedule.get_last_lr(),
        "epsilon": made.engine.get_epsilon(1e-5),
        "history": [list(entry) for entry in made.engine._ledger.history],
        "steps": made.engine.steps,
        "dropout": torch.get_rng_state().numpy().tobytes().hex(),
        "noise": None if noise is None else noise.numpy().tobytes().hex(),
    }


def main(folder: Path, job: Job) -> None:
    torch.set_num_threads(1)
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    found = train(job, folder, lambda made: os.write(log, b"%d\n" % made.engine.steps))
    part = folder.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(folder.with_suffix(".json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Job(**json.loads(sys.argv[2])))
