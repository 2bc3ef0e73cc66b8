"""How a shadow model is trained and what is read off it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from audits.membership import stable_logit
from audits.tasks.task import Task

Signal = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> [B], of each record by itself; high where the model knows it."""


@dataclass(frozen=True)
class Recipe:
    """Everything that is alike in all shadow models; functions of a module, for other processes.

    Attributes:
        model: seed -> a fresh model, the same for the same seed.
        losses: (model, batch) -> [B] loss of each record by itself; training uses the mean.
        optimizer: (parameters, lr) -> the optimizer.
        signal: what is read off a trained model, in eval mode.
        lr: learning rate.
        batch_size: records a step; the last step of a pass has what is left.
        epochs: passes over a model's half of the records.
        collate: list of records -> batch, None for torch's own.
    """

    model: Callable[[int], nn.Module]
    losses: Callable[[nn.Module, Any], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter], float], Optimizer]
    signal: Signal
    lr: float
    batch_size: int
    epochs: int
    collate: Callable[[list[Any]], Any] | None = None

    def __post_init__(self) -> None:
        """Refuses sizes below 1."""
        if self.batch_size < 1 or self.epochs < 1:
            raise ValueError(
                f"batch_size is {self.batch_size} and epochs {self.epochs}; expected at least 1."
            )


def stable_logits(model: nn.Module, batch: Any) -> Tensor:
    """The signal of a classifier, [B], for batches (inputs, labels)."""
    inputs, labels = batch
    return torch.from_numpy(stable_logit(model(inputs), labels))


def recipe_of(
    task: Task, signal: Signal = stable_logits, lr: float | None = None, epochs: int | None = None
) -> Recipe:
    """The recipe of a task: its model, loss, optimizer and batch size.

    Args:
        task: What to train.
        signal: What to read off; the stable logit fits classifiers with one label a record.
        lr: Learning rate; by default the task's.
        epochs: Passes; by default the task's.
    """
    return Recipe(
        model=task.model,
        losses=task.losses,
        optimizer=task.optimizer,
        signal=signal,
        lr=task.lr if lr is None else lr,
        batch_size=task.batch_size,
        epochs=task.epochs if epochs is None else epochs,
        collate=task.collate,
    )
