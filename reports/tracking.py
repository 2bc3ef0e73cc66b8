"""Runs in MLflow: an experiment per task, a parent per sweep, a child per arm and seed."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reports.address import brief, without_password
from reports.arms import run_name
from reports.experiment import Experiment, open_experiment, tracking_uri
from reports.rows import Row
from reports.run_content import (
    ARM_TAG,
    COLOR_TAG,
    KIND_TAG,
    TAG_LIMIT,
    Series,
    fact_tags,
    headline,
    params,
    points,
    tags,
)

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, RunTag

__all__ = [
    "CHUNK",
    "ERROR_TAG",
    "TAG_LIMIT",
    "Experiment",
    "Origin",
    "ended",
    "fail",
    "finish",
    "has_run",
    "log_run",
    "open_experiment",
    "start_run",
    "start_sweep",
    "tracking_uri",
]

CHUNK = 1000  # metrics per request that MLflow accepts
COMPARE = "compare"
ERROR_TAG = "dpclip.error"
_LOG = logging.getLogger(__name__)
DIGEST_LIMIT = 36  # characters of a dataset's digest that MLflow accepts


@dataclass(frozen=True)
class Origin:
    """When a run happened, and on what.

    Attributes:
        started: In Unix seconds; None where nobody knows, and the time of logging takes its place.
        ended: The same of its end.
        data: Name of the training records; nothing of them is stored.
        digest: Of the training records, at most 36 characters are kept; empty for none.
        facts: What else is known of the records, such as how many they are.
    """

    started: float | None = None
    ended: float | None = None
    data: str = ""
    digest: str = ""
    facts: Mapping[str, str | int | float | None] = field(default_factory=dict)


def has_run(experiment: Experiment, run_id: str) -> bool:
    """Whether the experiment holds that run, and nobody deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        info = experiment.client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return bool(info.experiment_id == experiment.id and info.lifecycle_stage == "active")


def start_sweep(
    experiment: Experiment,
    name: str,
    facts: Mapping[str, str] | None = None,
    started: float | None = None,
) -> str:
    """Returns the id of a new parent run. It carries tags and files, never metrics.

    Args:
        experiment: Where to.
        name: Of the run.
        facts: As in `log_run`.
        started: When its first run began, in Unix seconds; now if not given.
    """
    held = {KIND_TAG: "sweep", **fact_tags(facts or {})}
    return _begun(experiment, name, held, started)


def start_run(experiment: Experiment, row: Row, *, kind: str = "train") -> str:
    """Returns the id of a run that is RUNNING; `log_run` with this id ends it.

    Args:
        experiment: Where to.
        row: As much of the run's row as is known before it starts.
        kind: `train` or `audit`.
    """
    held = tags(row, kind, None)
    known = {key: held[key] for key in (KIND_TAG, ARM_TAG, COLOR_TAG)}
    return _begun(experiment, run_name(row), known)


def finish(
    experiment: Experiment,
    sweep_id: str,
    note: str = "",
    files: Sequence[Path] = (),
    ended: float | None = None,
) -> None:
    """Puts the report's files under compare/, sets the note, and marks the run FINISHED."""
    for path in files:
        experiment.client.log_artifact(sweep_id, str(path), COMPARE)
    if note:
        experiment.client.set_tag(sweep_id, "mlflow.note.content", note[:TAG_LIMIT])
    experiment.client.set_terminated(sweep_id, "FINISHED", _ms(ended))


def fail(experiment: Experiment, run_id: str, error: BaseException) -> None:
    """Marks the run KILLED where somebody stopped it and FAILED otherwise, with the reason.

    Whatever ended the run is more important than a server that does not take this.
    """
    from mlflow.exceptions import MlflowException

    killed = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    told = f"{type(error).__name__}: {error}"
    told = without_password(told)[:TAG_LIMIT]
    try:
        with brief():
            experiment.client.set_tag(run_id, ERROR_TAG, told)
            experiment.client.set_terminated(run_id, "KILLED" if killed else "FAILED")
    except MlflowException as away:
        _LOG.warning("run %s stays RUNNING in MLflow: %s", run_id, without_password(str(away)))


@contextmanager
def ended(experiment: Experiment, run_id: str) -> Iterator[str]:
    """Yields the run's id and sees to it that an error does not leave the run RUNNING."""
    try:
        yield run_id
    except BaseException as error:
        fail(experiment, run_id, error)
        raise


_UNKNOWN = Origin()


def log_run(
    experiment: Experiment,
    row: Row,
    *,
    kind: str = "audit",
    sweep_id: str | None = None,
    constant: Collection[str] = (),
    facts: Mapping[str, str] | None = None,
    series: Series | None = None,
    artifacts: Path | None = None,
    origin: Origin = _UNKNOWN,
    run_id: str | None = None,
) -> str:
    """Writes one finished run and returns its id.

    Args:
        experiment: Where to.
        row: The run's flat dict.
        kind: `train` or `audit`.
        sweep_id: The parent run, None for a run of its own.
        constant: Settings to leave out of the name (`shared_settings` of the sweep).
        facts: Any of unit, accountant, sampling, rng; they become tags `dpclip.<fact>`.
        series: Name (`train/loss`) to (step, value) pairs, steps from 1 and growing. Values that
            are not finite are left out, as they would ruin the axes.
        artifacts: A folder whose content becomes the run's artifacts.
        origin: When it happened and on what.
        run_id: A run that `start_run` began; a new one if not given.

    Raises:
        ValueError: If steps do not grow from 1, or a fact is unknown.
        FileNotFoundError: If the folder of artifacts is not there.
    """
    if artifacts is not None and not artifacts.is_dir():
        raise FileNotFoundError(
            f"artifacts is {artifacts}, which is no folder, expected one with the files; "
            "MLflow would log nothing and say nothing"
        )
    # All that may be refused is made before the run, so that no half-written run is left.
    curves, held = points(series or {}, origin.ended), params(row)
    metrics = headline(row, origin.ended)
    named = tags(row, kind, sweep_id) | fact_tags(facts or {})
    client = experiment.client
    later = [] if run_id is None else _entities(named)
    if run_id is None:
        run_id = _begun(experiment, run_name(row, constant), named, origin.started)
    with ended(experiment, run_id):
        client.log_batch(run_id, params=held, metrics=metrics, tags=later)
        for start in range(0, len(curves), CHUNK):
            client.log_batch(run_id, metrics=curves[start : start + CHUNK])
        if origin.digest:
            client.log_inputs(run_id, [_input(origin)])
        if artifacts is not None:
            client.log_artifacts(run_id, str(artifacts))
        client.set_terminated(run_id, "FINISHED", _ms(origin.ended))
    return run_id


def _begun(
    experiment: Experiment, name: str, held: Mapping[str, str], started: float | None = None
) -> str:
    run = experiment.client.create_run(experiment.id, _ms(started), tags=dict(held), run_name=name)
    return str(run.info.run_id)


def _entities(held: Mapping[str, str]) -> "list[RunTag]":
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in held.items()]


def _input(origin: Origin) -> "DatasetInput":
    """Returns the training records as MLflow shows them: a name and a digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = origin.digest[:DIGEST_LIMIT]
    told = json.dumps(dict(origin.facts))
    data = Dataset(origin.data or "training records", digest, "digest", "{}", profile=told)
    return DatasetInput(data, [InputTag("mlflow.data.context", "training")])


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
