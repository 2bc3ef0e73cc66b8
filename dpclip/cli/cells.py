"""One cell of a sweep, in a worker process: plain values in, plain values out."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from audits import gradient_audit, record_audit, trial
from audits.planted import Planted
from audits.sweep import Cell, Result
from audits.tasks import Task
from audits.trial import Observe, Scalar
from audits.verdict import verdict
from canaries import GradientCanaries, digest
from dpclip.arms import Arm
from dpclip.cli.claims import promise
from dpclip.cli.digests import records_digest
from dpclip.cli.manifests import GRADIENTS, RECORDS, safe
from dpclip.cli.prospects import by_records
from dpclip.cli.tasks import gradient_canaries, plant, task_of
from dpclip.loader import sample_rate
from dpclip.measure import gradient_norms
from dpclip.privacy_engine import PrivacyEngine


def work(
    config: Mapping[str, Any],
    weights: Path | None = None,
    manifests: Path | None = None,
    observe: Observe | None = None,
) -> Result:
    """Runs one cell and returns its row, series, canaries, data and times as plain values.

    Args:
        config: everything that decides the result.
        weights: where a cell of kind train saves the model.
        manifests: folder where a cell of kind audit declares what it will do, before it trains.
        observe: gets the training loss of a cell of kind train as it comes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*supports no epsilon.*")  # the report says so
        began = time.time()
        return _work(config, weights, manifests, observe) | {"times": [began, time.time()]}


def _work(
    config: Mapping[str, Any],
    weights: Path | None,
    manifests: Path | None,
    observe: Observe | None,
) -> Result:
    arm = Arm(**{f.name: config[f.name] for f in dataclasses.fields(Arm)})
    task = task_of(config)
    setting = trial.Setting(
        config["seed"],
        config["lr"],
        task.epochs,
        config["delta"],
        config["alpha"],
        config["tests"],
    )
    privatize = privatizer(arm, config["accountant"], task, config.get("secure", False))
    if config["kind"] == "train":
        outcome = trial.train(task, task.train, setting, privatize, observe)
        assert outcome.model is not None
        outcome.row.update(task.measured(outcome.model, task.test))
        if weights is not None:
            _save(outcome.model, weights)
    else:
        planted = plant(task, config["canaries"], config["seed"])
        if config["kind"] == "search":
            outcome = trial.validate(task, planted.train, setting, privatize)
        else:
            assert manifests is not None
            declared = manifests / Cell("", config).key
            outcome = record_audit.audit(
                task, planted, setting, privatize, gradient_norms, safe(declared, RECORDS)
            )
            outcome.row.update(_by_gradients(config, arm, task, planted, setting, declared))
            outcome.row["verdict"] = verdict(outcome.row)
    row = arm.columns | {"arm": arm.label, "canaries": config["canaries"]} | outcome.row
    data = {"digest": records_digest(task.train), "records": len(task.train)}  # type: ignore[arg-type]
    return {
        "row": row,
        "series": outcome.series,
        "canaries": outcome.canaries,
        "data": data,
    }


def _by_gradients(
    config: Mapping[str, Any],
    arm: Arm,
    task: Task,
    planted: Planted,
    setting: trial.Setting,
    declared: Path,
) -> dict[str, Scalar]:
    """Returns the bound from gradient canaries, nothing where the records' own can do it.

    Which of the two it is follows from the claim and the number of canaries, before training: the
    better of two bounds that were seen would need half of alpha for each.
    """
    records = len(planted.train)  # type: ignore[arg-type]
    promised = promise(arm, task, records, setting.delta, config["accountant"])
    wanted = config["gradient_canaries"]
    if promised is None or not wanted or by_records(planted, promised, setting).resolves:
        return {}
    # Each cell has noise and canaries of its own: with those of the seed, all arms would see the
    # same noise on the same canaries, and one unlucky draw would look like many.
    own = dataclasses.replace(setting, seed=int(Cell("", config).key[:8], 16))
    group = gradient_canaries(task, wanted, own.seed)
    made_from = digest((group.label, group.coins, group.coordinates, group.seed, group.raw))
    return gradient_audit.audit(
        task,
        planted.train,
        own,
        privatizer(arm, config["accountant"], task, groups=group),
        gradient_audit.GradientCanaries(
            group.ids, group.coins, group.observed, group.beside, made_from
        ),
        promised.claimed,
        safe(declared, GRADIENTS),
    )


def privatizer(
    arm: Arm,
    accountant: str,
    task: Task | None = None,
    secure: bool = False,
    groups: GradientCanaries | None = None,
) -> trial.Privatize:
    """Returns what makes the training runs of an arm private.

    Args:
        arm: how they train.
        accountant: prv or rdp.
        task: names the layer whose output is clustered, and how long records are.
        secure: whether randomness is secure or seeded.
        groups: canaries that join every step of the one run.
    """
    features = task.features if task else ""

    def privatize(
        model: nn.Module, optimizer: Optimizer, loader: DataLoader[Any], seed: int
    ) -> trial.Private:
        engine = PrivacyEngine(
            accountant, seed=None if secure else seed, secure=secure, measure=False
        )
        parts = _by_length(arm, task, loader.dataset)
        _, _, private = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=arm.sigma,
            grouping=arm.grouping(features),
            weighting=arm.rule(),
            pacing=arm.pace(),
            **parts,
        )
        if groups is not None:
            engine.plant(groups)
        return trial.Private(
            loader=private,
            epsilon=engine.get_epsilon,
            guarantee=lambda: engine.guarantee,
            clipped=lambda: engine.diagnostics().fraction_clipped,
            sizes=(lambda: engine.pace.sizes) if arm.pace() else None,
            stepped=(lambda: engine.updated) if parts else None,
            close=engine.close,
            q=sample_rate(loader),
            randomness="secure" if secure else "seeded",
        )

    return privatize


def _by_length(arm: Arm, task: Task | None, records: Any) -> dict[str, Any]:
    """Returns how drawn batches are cut by length, nothing where they stay whole.

    Clusters and paced updates are made of whole batches.
    """
    if task is None or task.length is None or arm.clip == "cluster" or arm.pace() is not None:
        return {}
    lengths = [task.length(records[i]) for i in range(len(records))]
    return {"lengths": lengths, "max_physical_size": max(task.physical_size or 0, *lengths)}


def _save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
