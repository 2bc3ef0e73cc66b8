"""The command train: one arm, no canaries."""

from __future__ import annotations

import dataclasses
from typing import Any

from audits.sweep import Cell, Store, run
from dpclip.arms import arms_of
from dpclip.cli.cells import work
from dpclip.cli.errors import Usage, asked
from dpclip.cli.logged import log_training
from dpclip.cli.options import Audit, Train
from dpclip.cli.tasks import task_of


def train(chosen: Train, _words: str) -> None:
    """Trains, saves the weights as safetensors, logs the run, and prints the result."""
    arms, skipped = asked(lambda: arms_of(chosen.grouping, chosen.weighting, f"{chosen.noise}"))
    if len(arms) != 1 or skipped:
        raise Usage("train runs one arm: give one grouping, one weighting and one noise.")
    unplanted = Audit()  # a task is named with its canaries, of which none are inserted here
    names = ("families", "secret", "alphabet", "references", "canaries", "alpha")
    own = ("task", "epochs", "batch_size", "delta", "accountant", "seed")
    config: dict[str, Any] = {name: getattr(unplanted, name) for name in names}
    config |= {name: getattr(chosen, name) for name in own}
    task = asked(lambda: task_of(config))
    store = asked(lambda: Store(chosen.store, chosen.task))
    arm = arms[0]
    config |= dataclasses.asdict(arm) | {"kind": "train", "lr": chosen.lr or task.lr}
    cell = Cell(arm.label, config)
    config["weights"] = str(chosen.store / f"{cell.key}.safetensors")
    result = run([Cell(arm.label, config)], work, store, 0, lambda _c, _r: None)[0]
    row = result["row"]
    link = log_training(chosen.store, task.name, cell, result)
    print(f"{arm.label}: {task.metric} {row[task.metric]:.4g}, epsilon {row['eps']:.4g}")
    print(row["guarantee"])
    print(f"Weights: {config['weights']}")
    print(f"Runs: dpclip ui --store {chosen.store}, then open {link}")
