"""Finished results into MLflow, each once: the store remembers what was logged."""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from audits.sweep import Cell, Result
from reports import shared_settings
from reports.document import replace
from reports.pictures import run_gallery
from reports.run_report import run_markdown
from reports.tracking import Experiment, ended, finish, log_run, open_experiment, start_sweep
from reports.ui import runs_link

_MEMORY = "logged.json"
_PACKAGES = ("dpclip", "torch", "opacus", "numpy", "mlflow")


def log_sweep(
    store: Path,
    task: str,
    cells: Sequence[Cell],
    results: Sequence[Result],
    files: Sequence[Path],
    note: str,
) -> str:
    """Logs a parent run and one child for each cell, and returns the link to them."""
    experiment = open_experiment(store, task)
    sweep = hashlib.sha256(" ".join(cell.key for cell in cells).encode()).hexdigest()[:16]
    if sweep not in _logged(store):
        parent = start_sweep(experiment, f"sweep of {len(cells)} runs")
        constant = shared_settings(result["row"] for result in results)
        with ended(experiment, parent):
            for cell, result in zip(cells, results, strict=True):
                _log(experiment, cell, result, "audit", parent, constant)
            finish(experiment, parent, note, files)
        _remember(store, sweep, parent)
    return runs_link(experiment.id)


def log_training(store: Path, task: str, cell: Cell, result: Result) -> str:
    """Logs one training run and returns the link to it."""
    experiment = open_experiment(store, task)
    if cell.key not in _logged(store):
        run = _log(experiment, cell, result, "train", None, frozenset())
        _remember(store, cell.key, run)
    return runs_link(experiment.id)


def _logged(store: Path) -> dict[str, str]:
    """Returns what was logged -> its run's id; a damaged file knows of nothing."""
    try:
        return dict(json.loads((store / _MEMORY).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _remember(store: Path, what: str, run: str) -> None:
    replace(store / _MEMORY, json.dumps(_logged(store) | {what: run}).encode())


def _log(
    experiment: Experiment,
    cell: Cell,
    result: Result,
    kind: str,
    parent: str | None,
    constant: frozenset[str],
) -> str:
    row: Mapping[str, Any] = result["row"]
    facts = {
        "unit": "record",
        "accountant": str(cell.config["accountant"]),
        "sampling": "poisson",
        "rng": "seeded",
    }
    with tempfile.TemporaryDirectory() as folder:
        _artifacts(Path(folder), cell, result)
        return log_run(
            experiment,
            row,
            kind=kind,
            sweep_id=parent,
            constant=constant,
            facts=facts,
            series=result["series"],
            artifacts=Path(folder),
        )


def _artifacts(folder: Path, cell: Cell, result: Result) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(cell.config)))
    env = {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    (folder / "env.json").write_text(json.dumps(env, indent=1))
    if not result["canaries"]:
        return
    audit = folder / "audit"
    audit.mkdir()
    pd.DataFrame(result["canaries"]).to_csv(audit / "canaries.csv", index=False)
    gallery = run_gallery(result["row"], result["canaries"])
    for plate in gallery.plates:
        (audit / plate.name).write_bytes(plate.png)
    (audit / "report.md").write_text(run_markdown(result["row"], gallery))
