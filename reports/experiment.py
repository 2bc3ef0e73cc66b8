"""Experiments in MLflow: where runs go, and the one of a task."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from reports.address import without_password

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


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

    Several processes may call it at once, on one store or on one server.

    Raises:
        ValueError: If the task has a slash, somebody deleted the experiment, or the tracking server
            of the user's own does not answer.
    """
    if not task or "/" in task:
        raise ValueError(f"task is {task!r}, expected a name without a slash; rename the task")
    name = f"dpclip-{task}"
    with _alone(store):
        client = open_client(store)
        # Imported after the client has switched telemetry off.
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_experiment_by_name(name) or _made(client, store, name)
        except MlflowException as error:
            if not foreign():
                raise
            raise ValueError(
                "the server that MLFLOW_TRACKING_URI names cannot be used: "
                f"{without_password(str(error))}; start it, or unset the variable to keep runs in "
                "the store"
            ) from error
    if found.lifecycle_stage != "active":
        where = "" if foreign() else f"MLFLOW_TRACKING_URI={tracking_uri(store)!r} "
        raise ValueError(
            f"experiment {name!r} was deleted, expected an active one; restore it with "
            f"`{where}mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return Experiment(client, found.experiment_id, name)


def _made(client: "MlflowClient", store: Path, name: str) -> Any:
    """Returns the experiment, made here or by another process that was faster."""
    from mlflow.exceptions import MlflowException

    # A server that the user chose keeps its files where it wants.
    place = None if foreign() else (store.resolve() / "artifacts").as_uri()
    try:
        return client.get_experiment(client.create_experiment(name, place))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name)


def foreign() -> bool:
    """Returns whether runs go where the user told MLflow to, and not into the store."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def _alone(store: Path) -> AbstractContextManager[Any]:
    """Keeps other processes away from a database of our own while its tables are made.

    Processes that meet a database without tables all make them, and all but one die of it.
    """
    if foreign():
        return nullcontext()
    store.mkdir(parents=True, exist_ok=True)
    return FileLock(store / "mlflow.lock")


def open_client(store: Path) -> "MlflowClient":
    """Returns a client of the store; telemetry is off before MLflow is imported.

    Raises:
        ValueError: If MLFLOW_TRACKING_URI is no address that MLflow knows.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # On a server each run that ends is announced on stdout, where programs read results.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    # It announces each new database, in the middle of what the user reads.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

    store.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(store)
    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {without_password(uri)!r}, which MLflow cannot use: "
            f"{without_password(str(error))}; expected an address such as http://host:5000, or "
            "unset the variable to keep runs in the store"
        ) from error
