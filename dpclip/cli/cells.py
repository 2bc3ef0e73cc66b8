"""One cell of a sweep, in a worker process: plain values in, plain values out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from audits import trial
from audits.sweep import Result
from dpclip.arms import Arm
from dpclip.cli.tasks import plant, task_of
from dpclip.loader import sample_rate
from dpclip.measure import gradient_norms
from dpclip.privacy_engine import PrivacyEngine


def work(config: Mapping[str, Any], weights: Path | None = None) -> Result:
    """Runs one cell and returns its row, series and canaries as plain values.

    Args:
        config: everything that decides the result.
        weights: where a cell of kind train saves the model.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*supports no epsilon.*")  # the report says so
        return _work(config, weights)


def _work(config: Mapping[str, Any], weights: Path | None) -> Result:
    arm = Arm(**{f.name: config[f.name] for f in dataclasses.fields(Arm)})
    task = task_of(config)
    setting = trial.Setting(
        config["seed"], config["lr"], task.epochs, config["delta"], config["alpha"]
    )
    privatize = privatizer(arm, config["accountant"], config.get("secure", False))
    if config["kind"] == "train":
        outcome = trial.train(task, task.train, setting, privatize)
        assert outcome.model is not None
        outcome.row[task.metric] = task.evaluate(outcome.model, task.test)
        if weights is not None:
            _save(outcome.model, weights)
    else:
        planted = plant(task, config["canaries"], config["seed"])
        if config["kind"] == "search":
            outcome = trial.validate(task, planted.train, setting, privatize)
        else:
            outcome = trial.audit(task, planted, setting, privatize, gradient_norms)
    row = arm.columns | {"arm": arm.label, "canaries": config["canaries"]} | outcome.row
    return {"row": row, "series": outcome.series, "canaries": outcome.canaries}


def privatizer(arm: Arm, accountant: str, secure: bool = False) -> trial.Privatize:
    """Returns what makes the training runs of an arm private, with secure or seeded randomness."""

    def privatize(
        model: nn.Module, optimizer: Optimizer, loader: DataLoader[Any], seed: int
    ) -> trial.Private:
        engine = PrivacyEngine(
            accountant, seed=None if secure else seed, secure=secure, measure=False
        )
        _, _, private = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=arm.sigma,
            grouping=arm.grouping(),
            weighting=arm.rule(),
        )
        return trial.Private(
            loader=private,
            epsilon=engine.get_epsilon,
            guarantee=lambda: engine.guarantee,
            clipped=lambda: engine.diagnostics().fraction_clipped,
            close=engine.close,
            q=sample_rate(loader),
            randomness="secure" if secure else "seeded",
        )

    return privatize


def _save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
