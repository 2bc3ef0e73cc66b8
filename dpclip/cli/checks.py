"""What is refused before anything runs, so that a mistake costs seconds and leaves no store."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from audits.planted import Planted
from audits.record_audit import declare
from audits.search import SEEDS
from audits.tasks import Task
from audits.trial import Privatize, Setting
from dpclip.accounting.spending import check_accountant
from dpclip.arms import Arm
from dpclip.cli.cells import privatizer
from dpclip.cli.options import Audit, Train
from dpclip.cli.tasks import gradient_canaries, plant

_LEAST_DELTA = 1e-12
_COUNTS = ("seeds", "canaries", "references", "epochs", "batch_size", "runs", "limit", "words")


def check_options(chosen: Train | Audit) -> None:
    """Raises ValueError for a number out of its range."""
    for name in _COUNTS:
        if (value := getattr(chosen, name, None)) is not None and value < 1:
            raise ValueError(f"--{name} {value}: expected at least 1.")
    for name in ("seed", "first_seed", "workers", "gradient_canaries"):
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
    if isinstance(chosen, Audit):
        _check_audit(chosen)


def _check_audit(chosen: Audit) -> None:
    if chosen.loop is not None and not chosen.self_test:
        raise ValueError(f"--loop {chosen.loop}: a loop is for --self-test. Give both or none.")
    if chosen.delta < _LEAST_DELTA:
        raise ValueError(
            f"--delta {chosen.delta}: bounds against a claimed noise are not accurate below "
            f"{_LEAST_DELTA}."
        )
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    if chosen.search and (both := sorted(set(seeds) & set(SEEDS))):
        raise ValueError(
            f"Seed {both[0]} is one of the learning-rate search's, and what is chosen on a run "
            "must not be reported from it. Use another --first_seed."
        )


def rehearse(
    task: Task, arms: Sequence[Arm], config: Mapping[str, Any], seed: int
) -> Planted | None:
    """Returns the planted set, having built all that a cell builds, once for each arm.

    Nothing is trained.

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
        if planted is not None:
            declare(planted, Setting(seed, task.lr, task.epochs, config["delta"]))
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
                _privatize(arm, task, config)(model, optimizer, loader, seed).close()
        _check_losses(task, model)
        return planted
    except TypeError as error:
        raise ValueError(f"Task {task.name}: {error}") from error


def _privatize(arm: Arm, task: Task, config: Mapping[str, Any]) -> Privatize:
    """Returns what makes the arm private, with the gradient canaries that its audit may get."""
    wanted = config.get("gradient_canaries", 0) if arm.sigma else 0
    groups = gradient_canaries(task, wanted, 0) if wanted else None
    return privatizer(arm, config["accountant"], task, groups=groups)


def _check_batch(arm: Arm, task: Task) -> None:
    if task.batch_size < (least := arm.grouping(task.features).minimum):
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
