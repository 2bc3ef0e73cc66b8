"""One cell of a sweep: train one arm with one seed, and see what it remembers."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import percentileofscore
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from audits import exposure, scoring
from audits.planted import Planted
from audits.tasks.task import Task

TIERS = (1, 2, 4, 8, 16)
_EPSILONS = 5  # how often epsilon is put on record during training
_NORM_RECORDS = 256  # records whose gradient norms stand for the data's
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
    """

    loader: Any
    epsilon: Callable[[float], float]
    guarantee: Callable[[], str]
    clipped: Callable[[], float]
    close: Callable[[], None]
    q: float
    randomness: str


Privatize = Callable[[nn.Module, Optimizer, DataLoader[Any], int], Private]
"""(model, optimizer, loader, seed) -> the run made private."""

Norms = Callable[[nn.Module, Callable[[nn.Module, Any], Tensor], Any], Tensor]
"""(model, losses, batch) -> [B] gradient norms."""


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
    """

    seed: int
    lr: float
    epochs: int
    delta: float
    alpha: float = 0.05


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
) -> Outcome:
    """Returns a trained model and how training went.

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
                steps += 1
            seen, spent = seen + count, spent + time.perf_counter() - started
            loss = total / max(1, count)
            if not math.isfinite(loss):
                raise Diverged(
                    f"The loss is {loss} after epoch {epoch + 1} at learning rate {setting.lr:g}. "
                    "Use a smaller one."
                )
            losses.append((steps, loss))
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
    finally:
        private.close()
    series = {"train/loss": losses, "clip/fraction": clipped, "privacy/eps": epsilons}
    return Outcome(row, series, model=model)


def audit(
    task: Task,
    planted: Planted,
    setting: Setting,
    privatize: Privatize,
    norms: Norms,
) -> Outcome:
    """Returns the outcome of training on a planted set and looking for the canaries.

    Raises:
        Diverged: the loss is not finite.
    """
    before = scoring.score(task, task.model(setting.seed), planted)
    trained = train(task, planted.train, setting, privatize)
    model = trained.model
    assert model is not None
    after = scoring.score(task, model, planted)
    out = ~planted.inserted
    once = after.bits[planted.tier(1)]
    interval = exposure.mean(once) if len(once) else None
    row = trained.row | {
        task.metric: task.evaluate(model, task.test),
        "exposure": _mean(once),
        "exp_low": float(interval.low) if interval else math.nan,
        "exp_high": float(interval.high) if interval else math.nan,
        **{f"exp_{tier}": _mean(after.bits[planted.tier(tier)]) for tier in TIERS},
        "exp_out": _mean(after.bits[out]),
        "exp_before": _mean(before.bits),
        "exp_ceiling": after.ceiling,
        "exp_null": after.null,
        "norm_pct": norm_percentile(task, model, planted, norms),
        "auc": scoring.auc(after, planted),
        "eps_lb": scoring.lower_bound(after, planted, setting.delta, setting.alpha),
        "budget": planted.budget,
        "n_in": int(planted.inserted.sum()),
        "n_out": int(out.sum()),
        "references": after.references,
        "manifest": planted.manifest,
    }
    row["verdict"] = _verdict(row)
    return Outcome(row, trained.series, _table(planted, before, after), model)


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


def norm_percentile(task: Task, model: nn.Module, planted: Planted, norms: Norms) -> float:
    """Returns the median percentile (0..100) of canaries' gradient norms among the data's.

    Taken at the end of training, over canaries that were held out: what an inserted one looked
    like when it was new. An inserted canary that is memorized has a small gradient because of it.
    """
    out = np.flatnonzero(~planted.inserted)
    if not len(out):
        return math.nan
    rng = np.random.default_rng(0)
    fresh = [planted.records[i] for i in _few(out, rng)]
    data = [task.train[i] for i in _few(np.arange(len(task.train)), rng)]  # type: ignore[arg-type]
    collate = task.collate or torch.utils.data.default_collate
    theirs = norms(model, task.losses, collate(data)).numpy()
    mine = norms(model, task.losses, collate(fresh)).numpy()
    return float(np.median(percentileofscore(theirs, mine, kind="mean")))


def _few(numbers: Any, rng: np.random.Generator) -> list[int]:
    """Returns some of the numbers at random: the first are all of one family."""
    chosen = rng.choice(numbers, min(len(numbers), _NORM_RECORDS), replace=False)
    return [int(number) for number in chosen]


def _verdict(row: dict[str, Scalar]) -> str:
    claimed, bound = row["eps"], row["eps_lb"]
    assert isinstance(claimed, float) and isinstance(bound, float)
    if math.isinf(claimed):
        return "not-claimed"
    return "contradicted" if bound > claimed else "consistent"


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _table(
    planted: Planted, before: scoring.Scored, after: scoring.Scored
) -> list[dict[str, Scalar]]:
    return [
        {
            "id": planted.ids[i],
            "family": str(planted.families[i]),
            "repetitions": int(planted.repetitions[i]),
            "inserted": bool(planted.inserted[i]),
            "exposure": float(after.bits[i]),
            "low": float(after.low[i]),
            "high": float(after.high[i]),
            "before": float(before.bits[i]),
        }
        for i in range(len(planted.ids))
    ]
