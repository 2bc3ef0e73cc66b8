"""Tasks of a user's own, one good and the others not, for `--task own_tasks:NAME`."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from audits.tasks import Task

LIMIT = 3.0


def records(n: int, seed: int) -> TensorDataset:
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


def model(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def losses(module: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1], reduction="none")


def accuracy(module: nn.Module, data: Any) -> float:
    inputs, labels = data.tensors
    return float((module(inputs).argmax(1) == labels).float().mean())


def sgd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def tiny() -> Task:
    return Task(
        name="tiny",
        metric="acc",
        train=records(200, 0),
        validation=records(40, 1),
        test=records(40, 2),
        model=model,
        losses=losses,
        evaluate=accuracy,
        optimizer=sgd,
        batch_size=20,
        epochs=2,
        lr=0.5,
        lrs=(0.1, 0.5),
    )


def normalized() -> Task:
    return dataclasses.replace(
        tiny(), model=lambda seed: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    )


def forgetful() -> Task:
    return dataclasses.replace(tiny(), optimizer=lambda params, lr: sgd(list(params)[1:], lr))


def lbfgs() -> Task:
    return dataclasses.replace(
        tiny(), optimizer=lambda params, lr: torch.optim.LBFGS(list(params), lr=lr)
    )


def averaged() -> Task:
    return dataclasses.replace(tiny(), losses=lambda module, batch: losses(module, batch).mean())


def unknown_metric() -> Task:
    return dataclasses.replace(tiny(), metric="f1")


def unnamed() -> Task:
    return dataclasses.replace(tiny(), name="a/b")


def few() -> Task:
    return dataclasses.replace(tiny(), train=records(20, 0))


def no_grid() -> Task:
    return dataclasses.replace(tiny(), lrs=())


def number() -> int:
    return 3


def broken() -> Task:
    raise KeyError("data")
