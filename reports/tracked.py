"""Sweeps that were logged to MLflow, and their rows: from the summary kept there, or rebuilt."""

import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from reports import provenance, summary
from reports.address import without_password
from reports.provenance import Provenance
from reports.rows import NUMBERS, Row, Scalar, number, text

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

LONGER = {"eps_ceil": "eps_lb_ceiling"}  # names of metrics that are shorter than the column
ROUNDED = 1e-3  # by how much four significant digits may miss a value
PAGE = 1000
_PREFIX = "dpclip-"
_MAGIC = b"SQLite format 3\0"
_SOURCE = re.compile(r"\S+ from ([^;]+)")  # how a tag says what a bound comes from
_CONFIGURED = ("slots", "pacing")  # columns that tell arms apart and are in no parameter


@dataclass(frozen=True)
class Sweep:
    """A sweep on a tracking server.

    Attributes:
        id: Of its parent run.
        task: What was trained.
        status: FINISHED, RUNNING, FAILED or KILLED.
        runs: Its runs, one per arm and seed.
    """

    id: str
    task: str
    status: str
    runs: tuple["Run", ...]


@dataclass(frozen=True)
class Logged:
    """The rows of a sweep as they were logged.

    Attributes:
        rows: One flat dict per run.
        ids: The run of each row, empty where it cannot be told.
        exact: Whether the rows are those of summary.csv; otherwise they are rebuilt from params,
            metrics (four digits) and tags, which lack columns.
        provenance: How they came about, None where it was not logged.
    """

    rows: tuple[dict[str, Scalar], ...]
    ids: tuple[str, ...]
    exact: bool
    provenance: Provenance | None


def connect(uri: str) -> "MlflowClient":
    """Returns a client of an existing tracking server or database; makes none.

    Raises:
        ValueError: If the database is not there, or MLflow cannot use the address.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # minutes of silence by default
    database = re.fullmatch(r"sqlite:///(.+)", uri)
    if database:
        _check_database(Path(database[1]))
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        told = f"MLflow cannot read {uri!r}: {_first_line(error)}"
        raise ValueError(without_password(told)) from error


def sweeps(client: "MlflowClient") -> list[Sweep]:
    """Returns the sweeps of all experiments `dpclip-<task>`, the latest of a task first.

    Raises:
        ValueError: If the server does not answer, or its database is of another version of MLflow.
    """
    from mlflow.exceptions import MlflowException

    try:
        experiments = client.search_experiments(filter_string=f"name LIKE '{_PREFIX}%'")
        return [sweep for found in experiments for sweep in _sweeps(client, found)]
    except MlflowException as error:
        told = f"MLflow cannot read {client.tracking_uri!r}: {_first_line(error)}"
        raise ValueError(without_password(told)) from error


def logged(client: "MlflowClient", sweep: Sweep) -> Logged:
    """Returns the rows of a sweep, from its summary.csv where that can be fetched.

    Raises:
        ValueError: If its summary.csv or provenance.json is damaged.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        how = _fetch(client, sweep.id, f"compare/{provenance.NAME}", folder)
        made = provenance.read(how.parent) if how else None
        found = _fetch(client, sweep.id, f"compare/{summary.NAME}", folder)
        if found:
            rows = summary.read(found.parent)
            ids = tuple(_run_of(row, sweep.runs) for row in rows)
            return Logged(tuple(rows), ids, True, made)
        rebuilt = tuple(_row(client, sweep.task, run, folder) for run in sweep.runs)
        return Logged(rebuilt, tuple(run.info.run_id for run in sweep.runs), False, made)


def _check_database(path: Path) -> None:
    if not path.is_file():
        raise ValueError(
            f"there is no database {path}, expected one that runs were logged to; "
            "check the tracking URI"
        )
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(
                f"{path} is no SQLite database, expected one that runs were logged to; "
                "check the tracking URI"
            )


def _sweeps(client: "MlflowClient", experiment: Any) -> list[Sweep]:
    every = _runs(client, experiment.experiment_id)
    held: dict[str, list[Run]] = {}
    for run in reversed(every):  # in the order in which they were logged
        held.setdefault(run.data.tags.get("mlflow.parentRunId", ""), []).append(run)
    task = experiment.name.removeprefix(_PREFIX)
    return [
        Sweep(run.info.run_id, task, run.info.status, tuple(held.get(run.info.run_id, ())))
        for run in every
        if run.data.tags.get("dpclip.kind") == "sweep"
    ]


def _runs(client: "MlflowClient", experiment: str) -> list["Run"]:
    found: list[Run] = []
    token = None
    while True:
        order = ["attributes.start_time DESC"]
        page = client.search_runs([experiment], max_results=PAGE, order_by=order, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _fetch(client: "MlflowClient", run: str, path: str, folder: Path) -> Path | None:
    """Returns a copy of the artifact, None where there is none: a store may have been moved."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run, path, str(folder)))
    except (MlflowException, OSError):
        return None


def _row(client: "MlflowClient", task: str, run: "Run", folder: Path) -> dict[str, Scalar]:
    """Returns as much of a row as params, metrics, tags and config.yaml tell."""
    row: dict[str, Scalar] = {"task": task, "eps": math.inf}  # what is not finite is not logged
    row |= {name: _value(name, word) for name, word in run.data.params.items()}
    row |= {LONGER.get(k, k): v for k, v in run.data.metrics.items() if "/" not in k}
    tags = {name: run.data.tags.get(f"dpclip.{name}") for name in ("guarantee", "verdict")}
    row |= {name: told for name, told in tags.items() if told}
    source = _SOURCE.match(run.data.tags.get("dpclip.bound", ""))
    row |= {"eps_lb_by": source[1]} if source else {}
    own = folder / run.info.run_id
    own.mkdir()
    if made := _fetch(client, run.info.run_id, "config.yaml", own):
        config = yaml.safe_load(made.read_text())
        row |= {name: config[name] for name in _CONFIGURED if name in config}
    return row


def _value(name: str, word: str) -> Scalar:
    if name not in NUMBERS and name != "canaries":
        return word
    try:
        return float(word) if not word.lstrip("-").isdigit() else int(word)
    except ValueError as error:
        raise ValueError(
            f"the parameter {name!r} of a run is {word!r}, expected a number; it was logged by "
            "something else, so choose other runs"
        ) from error


def _run_of(row: Row, runs: Sequence["Run"]) -> str:
    """Returns the id of the run that a row was logged as, empty where none or several fit."""
    fits = [run.info.run_id for run in runs if _agrees(row, run.data.params, run.data.metrics)]
    return fits[0] if len(fits) == 1 else ""


def _agrees(row: Row, params: Mapping[str, str], metrics: Mapping[str, float]) -> bool:
    settings = ("C", "sigma", "mb", "seed")
    alike = all(text(row, name) == params.get(name, "") for name in ("clip", "weighting"))
    told = {name: _value(name, params[name]) for name in settings if name in params}
    told |= {LONGER.get(name, name): value for name, value in metrics.items()}
    return alike and all(_close(number(row, k), v) for k, v in told.items() if k in row)


def _close(exact: float, rounded: Scalar) -> bool:
    assert isinstance(rounded, int | float)
    return math.isclose(exact, rounded, rel_tol=ROUNDED, abs_tol=1e-12)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
