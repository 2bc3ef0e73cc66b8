"""The command train: one arm, no canaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audits.sweep import Cell, Store
from audits.tasks import Task
from dpclip.arms import Arm, arms_of
from dpclip.cli.cells import work
from dpclip.cli.checks import check_options, rehearse
from dpclip.cli.digests import made_of
from dpclip.cli.errors import Usage, asked
from dpclip.cli.logged import live_training, log_training
from dpclip.cli.options import Audit, Train
from dpclip.cli.output import Output
from dpclip.cli.speech import OPTIONS, TASKS
from dpclip.cli.tasks import task_of
from reports.tracking import open_experiment
from reports.ui import directions

_UNPLANTED = ("families", "secret", "alphabet", "references", "alpha")
_OWN = ("task", "data", "limit", "epochs", "batch_size", "delta", "accountant", "seed", "secure")


def train(chosen: Train, _words: str) -> None:
    """Trains, saves the weights as safetensors, logs the run, and prints the result.

    Raises:
        Usage: something asked for cannot be done; nothing was run.
    """
    asked(lambda: check_options(chosen))
    arms, skipped = asked(
        lambda: arms_of(chosen.grouping, chosen.weighting, f"{chosen.noise}", chosen.pacing)
    )
    if len(arms) != 1 or skipped:
        raise Usage(
            "train runs one arm: give one grouping, one weighting, one noise and one pacing."
        )
    arm, unplanted = arms[0], Audit()  # a task is named with its canaries; none are inserted here
    config: dict[str, Any] = {name: getattr(unplanted, name) for name in _UNPLANTED}
    if chosen.task in TASKS:
        config |= {name: getattr(unplanted, name) for name in OPTIONS} | {"bad": chosen.bad}
    config |= {name: getattr(chosen, name) for name in _OWN} | {"canaries": 0, "tests": 1}
    task = asked(lambda: task_of(config))
    asked(lambda: rehearse(task, arms, config, chosen.seed))
    store = asked(lambda: Store(chosen.store, task.name))
    asked(lambda: open_experiment(chosen.store, task.name))
    config |= dataclasses.asdict(arm) | {"kind": "train", "lr": chosen.lr or task.lr}
    config |= {"made_of": made_of(task)}
    cell = Cell(arm.label, config)
    weights = chosen.store / f"{cell.key}.safetensors"
    output = Output(chosen.quiet, chosen.json)
    result = store.read(cell) if weights.exists() and config["made_of"] else None
    if result is None:
        columns = arm.columns | {"task": task.name, "seed": chosen.seed, "lr": config["lr"]}
        with live_training(chosen.store, cell, columns) as run:
            result = work(config, weights, observe=run.observe)
            store.write(cell, result)
            _tell(output, arm, task, result["row"], weights)  # a server may not take it
            run.complete(result)
    else:
        _tell(output, arm, task, result["row"], weights)
    link = log_training(chosen.store, task.name, cell, result)
    output.remark(f"Runs: {directions(chosen.store, link)}")


def _tell(output: Output, arm: Arm, task: Task, row: Mapping[str, Any], weights: Path) -> None:
    output.result(f"{arm.label}: {task.metric} {row[task.metric]:.4g}, epsilon {row['eps']:.4g}")
    output.remark(row["guarantee"], f"Weights: {weights}")
    output.rows([{**row, "weights": str(weights)}])
