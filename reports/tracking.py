"""Runs in MLflow: an experiment per task, a parent per sweep, a child per arm and seed."""

import logging
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from reports.arms import COLORS, arm_of, run_name
from reports.claims import bound_text, claims_epsilon, guarantee_text, verdict_text
from reports.intervals import NULL_EXPOSURE
from reports.rows import UTILITIES, Row, number, plain, text, utility_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

Series: TypeAlias = Mapping[str, Sequence[tuple[int, float]]]

PARAMS = (
    *("clip", "weighting", "C", "sigma", "mb", "world", "q", "steps", "lr", "delta", "seed"),
    *("model", "canaries"),
)
METRICS = (
    *(utility.column for utility in UTILITIES),
    *("exposure", "exp_low", "exp_high", "norm_pct", "auc", "auc_low", "auc_high", "coin_p"),
    *("before_p", "eps_lb", "eps_lb_ceiling", "eps", "clipfrac", "ex_per_s", "peak_mb"),
)
SHORTER = {"eps_lb_ceiling": "eps_ceil"}  # columns too wide for MLflow's table
FACTS = frozenset({"unit", "accountant", "sampling", "rng"})
CHUNK = 1000  # metrics per request that MLflow accepts
TAG_LIMIT = 8000  # characters per tag that MLflow accepts
COMPARE = "compare"


@dataclass(frozen=True)
class Experiment:
    """An open experiment: what every function here writes to."""

    client: "MlflowClient"
    id: str
    name: str


def tracking_uri(store: Path) -> str:
    """Returns where runs go: the user's MLFLOW_TRACKING_URI, or a database in the store."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"sqlite:///{(store.resolve() / 'mlflow.db').as_posix()}"


def open_experiment(store: Path, task: str) -> Experiment:
    """Returns the experiment `dpclip-<task>`, made with its database where it is missing.

    Call it in the parent process, before any worker starts: workers that meet a cold database
    all migrate it, and most of them die.

    Raises:
        ValueError: If the task has a slash, or somebody deleted the experiment.
    """
    if not task or "/" in task:
        raise ValueError(f"task is {task!r}, expected a name without a slash; rename the task")
    client = _client(store)
    name = f"dpclip-{task}"
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server that the user chose keeps its files where it wants.
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        place = (store.resolve() / "artifacts").as_uri() if own else None
        return Experiment(client, client.create_experiment(name, place), name)
    if found.lifecycle_stage != "active":
        raise ValueError(
            f"experiment {name!r} was deleted, expected an active one; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return Experiment(client, found.experiment_id, name)


def start_sweep(experiment: Experiment, name: str, facts: Mapping[str, str] | None = None) -> str:
    """Returns the id of a new parent run. It carries tags and files, never metrics."""
    tags = {"dpclip.kind": "sweep", **_facts(facts or {})}
    run = experiment.client.create_run(experiment.id, tags=tags, run_name=name)
    return str(run.info.run_id)


def finish(
    experiment: Experiment, sweep_id: str, note: str = "", files: Sequence[Path] = ()
) -> None:
    """Puts the report's files under compare/, sets the note, and marks the run FINISHED."""
    for path in files:
        experiment.client.log_artifact(sweep_id, str(path), COMPARE)
    if note:
        experiment.client.set_tag(sweep_id, "mlflow.note.content", note[:TAG_LIMIT])
    experiment.client.set_terminated(sweep_id, "FINISHED")


def fail(experiment: Experiment, run_id: str, error: BaseException) -> None:
    """Marks the run KILLED where somebody stopped it and FAILED otherwise, with the reason."""
    killed = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    told = f"{type(error).__name__}: {error}"
    experiment.client.set_tag(run_id, "dpclip.error", told[:TAG_LIMIT])
    experiment.client.set_terminated(run_id, "KILLED" if killed else "FAILED")


@contextmanager
def ended(experiment: Experiment, run_id: str) -> Iterator[str]:
    """Yields the run's id and sees to it that an error does not leave the run RUNNING."""
    try:
        yield run_id
    except BaseException as error:
        fail(experiment, run_id, error)
        raise


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
    points, params, metrics = _points(series or {}), _params(row), _headline(row)
    tags = _tags(row, kind, sweep_id) | _facts(facts or {})
    client = experiment.client
    run = client.create_run(experiment.id, tags=tags, run_name=run_name(row, constant))
    with ended(experiment, run.info.run_id) as run_id:
        client.log_batch(run_id, params=params, metrics=metrics)
        for start in range(0, len(points), CHUNK):
            client.log_batch(run_id, metrics=points[start : start + CHUNK])
        if artifacts is not None:
            client.log_artifacts(run_id, str(artifacts))
        client.set_terminated(run_id, "FINISHED")
    return str(run_id)


def _client(store: Path) -> "MlflowClient":
    """Returns a client of the store; telemetry is off before MLflow is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    # It announces each new database, in the middle of what the user reads.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

    store.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri(store))


def _params(row: Row) -> "list[Param]":
    from mlflow.entities import Param

    held = {key: plain(row.get(key), key) for key in PARAMS}
    return [
        Param(key, _word(value))
        for key, value in held.items()
        if value == value and value is not None
    ]


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _headline(row: Row) -> "list[Metric]":
    """Returns the headline metrics at four significant digits; what is not finite is left out."""
    values = {key: number(row, key) for key in METRICS}
    return [
        _metric(SHORTER.get(key, key), float(f"{v:.4g}"), 0)
        for key, v in values.items()
        if math.isfinite(v)
    ]


def _points(series: Series) -> "list[Metric]":
    for name, points in series.items():
        steps = [0, *(step for step, _ in points)]
        wrong = next((b for a, b in pairwise(steps) if b <= a), None)
        if wrong is not None:
            raise ValueError(
                f"series {name!r} has step {wrong} out of order, expected growing steps from 1; "
                "after a resume, start behind the last step that was logged"
            )
    return [
        _metric(name, value, step)
        for name, points in series.items()
        for step, value in points
        if math.isfinite(value)
    ]


def _metric(key: str, value: float, step: int) -> "Metric":
    from mlflow.entities import Metric

    return Metric(key, float(value), int(time.time() * 1000), step)


def _tags(row: Row, kind: str, sweep_id: str | None) -> dict[str, str]:
    parent = {"mlflow.parentRunId": sweep_id} if sweep_id else {}
    return {
        "dpclip.kind": kind,
        "dpclip.guarantee": guarantee_text(row)[:TAG_LIMIT],
        "dpclip.verdict": text(row, "verdict", missing="not-claimed"),
        "dpclip.bound": bound_text(row),
        "mlflow.runColor": COLORS[arm_of(row).clip],
        "mlflow.note.content": note(row)[:TAG_LIMIT],
        **parent,
    }


def _facts(facts: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(facts) - FACTS)
    if unknown:
        raise ValueError(
            f"fact {unknown[0]!r} is unknown, expected any of {', '.join(sorted(FACTS))}"
        )
    return {f"dpclip.{key}": value for key, value in facts.items()}


def note(row: Row) -> str:
    """Returns the run's description: the verdict, the exposure, the utility, then the guarantee."""
    utility = utility_of([row])
    said = f"{utility.label} {number(row, utility.column):.4g}" if utility else "utility: none"
    claim = f"epsilon {number(row, 'eps'):.3g}" if claims_epsilon(row) else "no epsilon is claimed"
    exposure = number(row, "exposure")
    bits = "not measured" if math.isnan(exposure) else f"{exposure:.2f} bits"
    return (
        f"**{text(row, 'verdict', missing='not-claimed')}**: {claim}  \n"
        f"1x exposure {bits} (null {NULL_EXPOSURE:.2f})  \n"
        f"{said}  \n"
        f"\nVerdict: {verdict_text(row)}. Lower bound by the audit: {bound_text(row)}.\n"
        f"\nGuarantee: {guarantee_text(row)}\n"
    )
