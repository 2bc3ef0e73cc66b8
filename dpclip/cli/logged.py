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
from reports.address import without_password
from reports.buffer import Buffer, buffered
from reports.document import replace
from reports.pictures import run_gallery
from reports.resume import drop_half_written, take_back, unsent
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
from reports.ui import HERE, PORT, landing, page_of, runs_link
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
    sweep = hashlib.sha256(" ".join(cell.key for cell in cells).encode()).hexdigest()[:16]
    # One that is started twice is logged by one process, and found logged by the other.
    with _kept(store), FileLock(store / f"logged.{sweep}.lock"):
        experiment = _opened(store, task)
        rows = [result["row"] for result in results]
        if not _is_logged(store, experiment, sweep):
            times = [_origin(result) for result in results]
            began = min((t.started for t in times if t.started is not None), default=None)
            last = max((t.ended for t in times if t.ended is not None), default=None)
            parent = _parent(store, experiment, sweep, f"sweep of {len(cells)} runs", began)
            with ended(experiment, parent):
                _log_children(store, experiment, sweep, parent, cells, results)
                finish(experiment, parent, note, files, last)
                take_back(experiment, parent)
            _remember(store, sweep, parent, done=True)
        save_views(experiment, rows)
        return landing(store, experiment)


def _parent(store: Path, experiment: Experiment, sweep: str, name: str, began: float | None) -> str:
    """Returns the parent run that was begun when a server went away, a new one if none was."""
    begun = f"{sweep} begun"
    if _is_logged(store, experiment, begun):
        return _logged(store)[begun]
    parent = start_sweep(experiment, name, started=began)
    _remember(store, begun, parent)
    return parent


def _log_children(
    store: Path,
    experiment: Experiment,
    sweep: str,
    parent: str,
    cells: Sequence[Cell],
    results: Sequence[Result],
) -> None:
    """Logs those that the parent has not; each is remembered at once."""
    memory = _logged(store)
    names = [f"{sweep} {cell.key}" for cell in cells]
    drop_half_written(experiment, parent, {memory[name] for name in names if name in memory})
    constant = shared_settings([result["row"] for result in results])
    for name, cell, result in zip(names, cells, results, strict=True):
        if not _is_logged(store, experiment, name):
            _remember(store, name, _log(experiment, cell, result, "audit", parent, constant))


def log_training(store: Path, task: str, cell: Cell, result: Result) -> str:
    """Logs one training run and returns the link to it."""
    with _kept(store):
        experiment = _opened(store, task)
        if not _is_logged(store, experiment, cell.key):
            begun = f"{cell.key} begun"
            live = _logged(store)[begun] if _is_logged(store, experiment, begun) else None
            _finish_training(store, experiment, cell, result, live)
        return _table(store, experiment)


def _finish_training(
    store: Path, experiment: Experiment, cell: Cell, result: Result, live: str | None
) -> None:
    """Logs what a run that was seen while it trained lacks, or a run of its own."""
    if live is not None:
        result = result | {"series": unsent(experiment, live, result["series"])}
    run = _log(experiment, cell, result, "train", run_id=live)
    take_back(experiment, run)
    _remember(store, cell.key, run, done=True)


def _table(store: Path, experiment: Experiment) -> str:
    """Returns the link to the table of runs: the saved views show audits alone."""
    return runs_link(experiment.id, page_of(store) or f"{HERE}:{PORT}")


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
        f"MLflow did not take the runs: {without_password(str(error))}. All results are kept in "
        f"{store}; the same command logs them."
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


def _remember(store: Path, what: str, run: str, done: bool = False) -> None:
    """Keeps the run's id; when all is done, what was kept on the way there is forgotten."""
    with FileLock(store / f"{_MEMORY}.lock"):  # another process may log beside this one
        held = _logged(store)
        if done:
            held = {name: one for name, one in held.items() if not name.startswith(f"{what} ")}
        replace(store / _MEMORY, json.dumps(held | {what: run}).encode())


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
    begun = _begun(store, cell, columns)
    if begun is None:
        yield Live(None, lambda _result: None)
        return
    experiment, run_id = begun

    def complete(result: Result) -> None:
        with _kept(store):
            buffer.flush()
            rest = {name: held for name, held in result["series"].items() if name not in _OBSERVED}
            _log(experiment, cell, result | {"series": rest}, "train", run_id=run_id)
        _remember(store, cell.key, run_id, done=True)

    with ended(experiment, run_id), buffered(experiment, run_id) as buffer:
        yield Live(_patient(buffer), complete)


def _begun(store: Path, cell: Cell, columns: Mapping[str, Any]) -> tuple[Experiment, str] | None:
    """Returns a new run, None where it was logged before or a server has gone away since."""
    from mlflow.exceptions import MlflowException

    try:
        experiment = open_experiment(store, columns["task"])
        if _is_logged(store, experiment, cell.key):
            return None
        run_id = start_run(experiment, columns)
    except (ValueError, MlflowException) as error:
        told = without_password(str(error))
        _LOG.warning("MLflow does not show this run while it trains: %s", told)
        return None
    _remember(store, f"{cell.key} begun", run_id)
    return experiment, run_id


def _patient(buffer: Buffer) -> Callable[[str, float, int], None]:
    """Returns what takes points, and does not end a training because a server is away."""
    from mlflow.exceptions import MlflowException

    told = False

    def observe(name: str, value: float, step: int) -> None:
        nonlocal told
        try:
            buffer.log(name, value, step)
        except MlflowException as error:
            if not told:
                said = "MLflow did not take step %d, which is tried again later: %s"
                _LOG.warning(said, step, without_password(str(error)))
            told = True

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
