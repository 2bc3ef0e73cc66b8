"""Runs that MLflow still calls RUNNING: at work, or killed before they could say so."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reports.address import without_password
from reports.experiment import foreign, open_client
from reports.run_content import KIND_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_HEARD = "train/loss"  # what a run at work logs again and again
_AGES = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


@dataclass(frozen=True)
class Unfinished:
    """A run that has not ended: which, how long ago it began and was last heard of, in seconds."""

    experiment: str
    run_id: str
    name: str
    kind: str
    age: float
    silent: float

    def __str__(self) -> str:
        """Returns the run in a line."""
        return (
            f"{self.experiment}: {self.kind} {self.name!r} ({self.run_id}) began "
            f"{duration(self.age)} ago, last heard of {duration(self.silent)} ago"
        )


def unfinished(store: Path, now: float | None = None) -> list[Unfinished]:
    """Returns the runs of dpclip that are RUNNING, those that began first before others.

    Nothing tells a run at work from one that was killed, except how long it has been silent.

    Args:
        store: Folder of results; MLFLOW_TRACKING_URI wins over it.
        now: Unix seconds; the clock's if not given.

    Raises:
        ValueError: If the store has no database, or the tracking server does not answer.
    """
    if not foreign() and not (store / "mlflow.db").exists():
        raise ValueError(
            f"{store} has no mlflow.db, expected the folder of an earlier train or audit"
        )
    client = open_client(store)
    from mlflow.exceptions import MlflowException

    try:
        return _found(client, time.time() if now is None else now)
    except MlflowException as error:
        raise ValueError(
            f"MLflow cannot read the runs: {without_password(str(error))}; check "
            "MLFLOW_TRACKING_URI, or unset it to look at the store"
        ) from error


def _found(client: "MlflowClient", clock: float) -> list[Unfinished]:
    names = {e.experiment_id: e.name for e in client.search_experiments() if _ours(e.name)}
    found = _running(client, list(names))
    return [_seen(client, run, names[run.info.experiment_id], clock) for run in found]


def duration(seconds: float) -> str:
    """Returns a length of time in its largest unit: `3 hours`, `1 day`."""
    size, unit = next((held for held in _AGES if seconds >= held[0]), _AGES[-1])
    count = max(0, int(seconds / size))
    return f"{count} {unit[:-1] if count == 1 else unit}"


def _ours(name: str) -> bool:
    return name.startswith("dpclip-")


def _running(client: "MlflowClient", experiments: list[str]) -> "list[Run]":
    """Returns all of them, however many pages they are."""
    found: list[Run] = []
    token: str | None = None
    while experiments:
        page = client.search_runs(
            experiments,
            "attributes.status = 'RUNNING'",
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            break
    return found


def _seen(client: "MlflowClient", run: "Run", experiment: str, now: float) -> Unfinished:
    began = run.info.start_time / 1000
    points = client.get_metric_history(run.info.run_id, _HEARD)
    heard = max((point.timestamp / 1000 for point in points), default=began)
    return Unfinished(
        experiment,
        run.info.run_id,
        run.info.run_name,
        run.data.tags.get(KIND_TAG, "run"),
        now - began,
        now - max(began, heard),
    )
