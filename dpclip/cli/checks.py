"""What is refused before anything runs, so that a mistake costs seconds and leaves no store."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from audits.tasks import Task
from dpclip.accounting.spending import check_accountant
from dpclip.arms import Arm
from dpclip.cli.cells import privatizer
from dpclip.cli.options import Audit, Train
from dpclip.cli.tasks import plant

_COUNTS = ("seeds", "canaries", "references", "epochs", "batch_size")


def check_options(chosen: Train | Audit) -> None:
    """Raises ValueError for a number out of its range."""
    for name in _COUNTS:
        if (value := getattr(chosen, name, None)) is not None and value < 1:
            raise ValueError(f"--{name} {value}: expected at least 1.")
    for name in ("seed", "first_seed", "workers"):
        if (value := getattr(chosen, name, 0)) < 0:
            raise ValueError(f"--{name} {value}: expected at least 0.")
    for name in ("delta", "alpha"):
        if not 0 < (value := getattr(chosen, name, 0.5)) < 1:
            raise ValueError(f"--{name} {value}: expected a number between 0 and 1.")
    if chosen.lr is not None and not (math.isfinite(chosen.lr) and chosen.lr > 0):
        raise ValueError(f"--lr {chosen.lr}: expected a positive number.")
    if chosen.lr is not None and isinstance(chosen, Audit) and chosen.search:
        raise ValueError("--search picks the learning rate that --lr sets. Give one of the two.")
    check_accountant(chosen.accountant)


def rehearse(task: Task, arms: Sequence[Arm], config: Mapping[str, Any], seed: int) -> None:
    """Builds everything that a cell builds, once for each arm, and trains nothing.

    Args:
        task: with its canary recipes.
        arms: all arms that will be trained.
        config: what the cells share; without canaries (`train`) none are planted.
        seed: of the first run.

    Raises:
        ValueError: canaries, model, optimizer or data that cannot be used; the message says how
            to mend it.
    """
    try:
        planted = plant(task, config["canaries"], seed) if config.get("canaries") else None
        model = task.model(seed)
        optimizer = task.optimizer(model.parameters(), task.lr)
        model.train()
        loader: DataLoader[Any] = DataLoader(
            planted.train if planted else task.train,
            batch_size=task.batch_size,
            collate_fn=task.collate,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a worker says it again
            for arm in arms:
                _check_batch(arm, task)
                privatizer(arm, config["accountant"])(model, optimizer, loader, seed).close()
        _check_losses(task, model)
    except TypeError as error:
        raise ValueError(f"Task {task.name}: {error}") from error


def _check_batch(arm: Arm, task: Task) -> None:
    if task.batch_size < (least := arm.grouping().minimum):
        raise ValueError(
            f"{arm.label} needs batches of {least} or more, and the batch size is "
            f"{task.batch_size}. Use a larger --batch_size or smaller groups."
        )


def _check_losses(task: Task, model: Any) -> None:
    records = [task.train[i] for i in range(min(2, len(task.train)))]  # type: ignore[arg-type]
    losses = task.losses(model, (task.collate or default_collate)(records))
    if not isinstance(losses, Tensor) or losses.shape != (len(records),):
        found = f"shape {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses)
        raise ValueError(
            f"Task {task.name}: losses returned {found} for {len(records)} records, expected one "
            'loss for each; use reduction="none".'
        )
