"""One training run of a sweep: one arm, one seed."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from audits.tasks.task import Task

_EPSILONS = 5  # how often epsilon is put on record during training
Scalar = str | int | float | bool | None


class Private(NamedTuple):
    """A training run made private, as far as a trial needs to know.

    Attributes:
        loader: what to iterate over.
        epsilon: delta -> epsilon spent.
        guarantee: one sentence, after training.
        clipped: share of groups that the last step clipped.
        close: removes the hooks.
        q: sampling rate.
        randomness: where draws and noise come from: seeded or secure.
        sizes: samples of each update so far, where updates are paced; else None.
        stepped: whether the batch before ended a step, where drawn batches come in parts; else
            None.
    """

    loader: Any
    epsilon: Callable[[float], float]
    guarantee: Callable[[], str]
    clipped: Callable[[], float]
    close: Callable[[], None]
    q: float
    randomness: str
    sizes: Callable[[], Sequence[float]] | None = None
    stepped: Callable[[], bool] | None = None


Observe = Callable[[str, float, int], None]
"""(series, value, step) -> nothing: called while a run is at work."""

Privatize = Callable[[nn.Module, Optimizer, DataLoader[Any], int], Private]
"""(model, optimizer, loader, seed) -> the run made private."""


class Diverged(RuntimeError):
    """Training left the range of finite numbers."""


@dataclass(frozen=True)
class Setting:
    """How one cell trains.

    Attributes:
        seed: of the model, the draws and the noise.
        lr: learning rate.
        epochs: passes.
        delta: of the epsilon that is reported.
        alpha: failure probability of the lower bound on epsilon, this cell's share.
        tests: over how many bounds the whole failure probability is shared.
    """

    seed: int
    lr: float
    epochs: int
    delta: float
    alpha: float = 0.05
    tests: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came out of a cell.

    Attributes:
        row: flat dict of scalars.
        series: name -> [(step, value)], steps from 1.
        canaries: one flat dict for each canary.
        model: the trained model.
    """

    row: dict[str, Scalar]
    series: dict[str, list[tuple[int, float]]]
    canaries: list[dict[str, Scalar]] = field(default_factory=list)
    model: nn.Module | None = None


def train(
    task: Task,
    records: Any,
    setting: Setting,
    privatize: Privatize,
    observe: Observe | None = None,
) -> Outcome:
    """Returns a trained model and how training went.

    Args:
        task: what is trained.
        records: what on.
        setting: how.
        privatize: makes the run private.
        observe: gets every point of the training loss as soon as it is there.

    Raises:
        Diverged: the loss is not finite.
    """
    model = task.model(setting.seed)
    optimizer = task.optimizer(model.parameters(), setting.lr)
    loader: DataLoader[Any] = DataLoader(
        records, batch_size=task.batch_size, collate_fn=task.collate
    )
    model.train()
    private = privatize(model, optimizer, loader, setting.seed)
    losses, clipped, epsilons = [], [], []
    spent, seen, steps = 0.0, 0, 0
    try:
        for epoch in range(setting.epochs):
            total, count, started = 0.0, 0, time.perf_counter()
            for batch in private.loader:
                optimizer.zero_grad()
                each = task.losses(model, batch)
                each.mean().backward()
                optimizer.step()
                total, count = total + float(each.detach().sum()), count + len(each)
                steps += private.stepped is None or private.stepped()
            seen, spent = seen + count, spent + time.perf_counter() - started
            loss = total / max(1, count)
            if not math.isfinite(loss):
                raise Diverged(
                    f"The loss is {loss} after epoch {epoch + 1} at learning rate {setting.lr:g}. "
                    "Use a smaller one."
                )
            losses.append((steps, loss))
            if observe is not None:
                observe("train/loss", loss, steps)
            clipped.append((steps, private.clipped()))
            if epoch % max(1, setting.epochs // _EPSILONS) == 0:  # the accountant takes its time
                epsilons.append((steps, private.epsilon(setting.delta)))
        row: dict[str, Scalar] = {
            "task": task.name,
            "seed": setting.seed,
            "q": private.q,
            "randomness": private.randomness,
            "steps": steps,
            "lr": setting.lr,
            "delta": setting.delta,
            "loss": losses[-1][1],
            "eps": private.epsilon(setting.delta),
            "guarantee": private.guarantee(),
            "clipfrac": float(np.mean([value for _, value in clipped])),
            "ex_per_s": seen / spent,
            # Of the process since it started: an upper bound for this cell.
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        sizes = None if private.sizes is None else private.sizes()
    finally:
        private.close()
    series = {"train/loss": losses, "clip/fraction": clipped, "privacy/eps": epsilons}
    if sizes is not None:
        row |= {"updates": len(sizes), "mean_batch": float(np.mean(sizes)) if sizes else math.nan}
        series["pace/samples"] = list(enumerate(sizes, 1))
    return Outcome(row, series, model=model)


def validate(
    task: Task,
    records: Any,
    setting: Setting,
    privatize: Privatize,
) -> Outcome:
    """Returns the outcome of a run of the learning-rate search, judged on validation data.

    A run that diverges counts as the worst possible.
    """
    try:
        trained = train(task, records, setting, privatize)
    except Diverged:
        return Outcome({"lr": setting.lr, "validation": None}, {})
    assert trained.model is not None
    value = task.evaluate(trained.model, task.validation)
    finite = value if math.isfinite(value) else None
    return Outcome({"lr": setting.lr, "validation": finite}, {})
