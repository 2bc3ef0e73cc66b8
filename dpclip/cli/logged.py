"""Finished results into MLflow, each once: the store remembers what was logged."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock

from audits.sweep import Cell, Result
from reports import shared_settings
from reports.buffer import Buffer, buffered
from reports.document import replace
from reports.pictures import run_gallery
from reports.run_report import run_markdown
from reports.tracking import (
    Experiment,
    Origin,
    ended,
    finish,
    has_run,
    log_run,
    open_experiment,
    start_run,
    start_sweep,
)
from reports.ui import landing
from reports.views import save_views

_LOG = logging.getLogger(__name__)
_MEMORY = "logged.json"
_OBSERVED = frozenset({"train/loss"})  # what a run sends while it is at work
_PACKAGES = ("dpclip", "torch", "opacus", "numpy", "mlflow")


def log_sweep(
    store: Path,
    task: str,
    cells: Sequence[Cell],
    results: Sequence[Result],
    files: Sequence[Path],
    note: str,
) -> str:
    """Logs a parent run, one child for each cell and the views, and returns the link to them.

    Raises:
        RuntimeError: MLflow did not take them.
    """
    with _kept(store):
        experiment = _opened(store, task)
        sweep = hashlib.sha256(" ".join(cell.key for cell in cells).encode()).hexdigest()[:16]
        rows = [result["row"] for result in results]
        if not _is_logged(store, experiment, sweep):
            times = [_origin(result) for result in results]
            began = min((t.started for t in times if t.started is not None), default=None)
            last = max((t.ended for t in times if t.ended is not None), default=None)
            parent = start_sweep(experiment, f"sweep of {len(cells)} runs", started=began)
            constant = shared_settings(rows)
            with ended(experiment, parent):
                for cell, result in zip(cells, results, strict=True):
                    _log(experiment, cell, result, "audit", parent, constant)
                finish(experiment, parent, note, files, last)
            _remember(store, sweep, parent)
        save_views(experiment, rows)
        return landing(store, experiment)


def log_training(store: Path, task: str, cell: Cell, result: Result) -> str:
    """Logs one training run and returns the link to it."""
    with _kept(store):
        experiment = _opened(store, task)
        if not _is_logged(store, experiment, cell.key):
            run = _log(experiment, cell, result, "train")
            _remember(store, cell.key, run)
        return landing(store, experiment)


@contextmanager
def _kept(store: Path) -> Iterator[None]:
    """Tells what to do where a server does not take the runs, which are in the store anyway."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RuntimeError(_untaken(store, error)) from error


def _opened(store: Path, task: str) -> Experiment:
    """Returns the experiment that was there when the command began."""
    try:
        return open_experiment(store, task)
    except ValueError as error:
        raise RuntimeError(_untaken(store, error)) from error


def _untaken(store: Path, error: Exception) -> str:
    return (
        f"MLflow did not take the runs: {error}. All results are kept in {store}; the same "
        "command logs them."
    )


def _logged(store: Path) -> dict[str, str]:
    """Returns what was logged -> its run's id; a damaged file knows of nothing."""
    try:
        return dict(json.loads((store / _MEMORY).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _is_logged(store: Path, experiment: Experiment, what: str) -> bool:
    """Whether it was logged where the runs go now: a tracking server may have been chosen since."""
    run = _logged(store).get(what)
    return run is not None and has_run(experiment, run)


def _remember(store: Path, what: str, run: str) -> None:
    with FileLock(store / f"{_MEMORY}.lock"):  # another process may log beside this one
        replace(store / _MEMORY, json.dumps(_logged(store) | {what: run}).encode())


def _origin(result: Result) -> Origin:
    """Returns when a cell ran and on what; a result of an older version knows neither."""
    began, last = result.get("times", (None, None))
    data = dict(result.get("data", {}))
    digest = data.pop("digest", "")
    return Origin(began, last, data=result["row"]["task"], digest=digest, facts=data)


@dataclass(frozen=True)
class Live:
    """A training run that MLflow shows while it is at work.

    Attributes:
        observe: takes points of its curves; None where it was logged before.
        complete: takes its result, and ends the run.
    """

    observe: Callable[[str, float, int], None] | None
    complete: Callable[[Result], None]


@contextmanager
def live_training(store: Path, cell: Cell, columns: Mapping[str, Any]) -> Iterator[Live]:
    """Yields a run that has just begun; an error ends it as FAILED or KILLED.

    Args:
        store: where it goes.
        cell: what is trained.
        columns: of its row, as far as they are known before it trains.
    """
    experiment = open_experiment(store, columns["task"])
    if _is_logged(store, experiment, cell.key):
        yield Live(None, lambda _result: None)
        return
    run_id = start_run(experiment, columns)

    def complete(result: Result) -> None:
        buffer.flush()
        rest = {name: held for name, held in result["series"].items() if name not in _OBSERVED}
        _log(experiment, cell, result | {"series": rest}, "train", run_id=run_id)
        _remember(store, cell.key, run_id)

    with _kept(store), ended(experiment, run_id), buffered(experiment, run_id) as buffer:
        yield Live(_patient(buffer), complete)


def _patient(buffer: Buffer) -> Callable[[str, float, int], None]:
    """Returns what takes points, and does not end a training because a server is away."""
    from mlflow.exceptions import MlflowException

    def observe(name: str, value: float, step: int) -> None:
        try:
            buffer.log(name, value, step)
        except MlflowException as error:
            _LOG.warning("MLflow did not take step %d, which is tried again: %s", step, error)

    return observe


def _log(
    experiment: Experiment,
    cell: Cell,
    result: Result,
    kind: str,
    parent: str | None = None,
    constant: frozenset[str] = frozenset(),
    run_id: str | None = None,
) -> str:
    row: Mapping[str, Any] = result["row"]
    facts = {
        "unit": "record",
        "accountant": str(cell.config["accountant"]),
        "sampling": "poisson",
        "rng": str(row.get("randomness", "seeded")),
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
            origin=_origin(result),
            run_id=run_id,
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
    gallery = run_gallery(result["row"], result["canaries"], series=result["series"])
    for plate in gallery.plates:
        (audit / plate.name).write_bytes(plate.png)
    (audit / "report.md").write_text(run_markdown(result["row"], gallery))
