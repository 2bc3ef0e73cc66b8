"""Looking at a store: the server's command, and the address that lands on the runs."""

import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from reports.address import without_password
from reports.experiment import Experiment, tracking_uri
from reports.views import TAG, TRADE_OFF

PORT = 5000
HERE = "http://127.0.0.1"


class Server(NamedTuple):
    """How the server of a store is started.

    Attributes:
        command: Its words.
        environment: What it needs beside the caller's own. The database is named here, because
            its address may have a password in it, and everybody on a machine can read commands.
    """

    command: list[str]
    environment: dict[str, str]


def server_of(store: Path, port: int = PORT) -> Server:
    """Returns how the store is served, on this machine only.

    Raises:
        ValueError: If MLFLOW_TRACKING_URI names a server, which has a page of its own.
    """
    uri = tracking_uri(store)
    if uri.startswith(("http:", "https:", "databricks")):
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {without_password(uri)}, expected a database; that server has "
            "its own page: open it in a browser, or unset the variable to see the runs of the store"
        )
    # One person looks on: more workers only take longer to start.
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return Server(
        [sys.executable, "-m", "mlflow", "ui", *where],
        {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes for language-model apps
        },
    )


def page_of(store: Path) -> str | None:
    """Returns the address of the tracking server that the user chose, None for a database.

    Names and passwords in it are left out, since addresses are printed.
    """
    uri = tracking_uri(store)
    return without_password(uri) if urlsplit(uri).scheme in ("http", "https") else None


def runs_link(experiment_id: str, server: str = f"{HERE}:{PORT}", view: str | None = None) -> str:
    """Returns the address of an experiment's runs.

    MLflow opens an experiment on its page for language-model apps, which is empty here; the
    workflow in the address leads to the runs.

    Args:
        experiment_id: As MLflow has it.
        server: Its address.
        view: Key of the saved view to open; without one, it is the table. Sorted by a metric, all
            runs show in it; otherwise they are folded away under their sweep. A view has its own
            sorting, and one in the address would win over all of the view.
    """
    query = "compareRunsMode=TABLE&workflowType=machine_learning"
    query += "&orderByKey=metrics.%60exposure%60&orderByAsc=true"
    if view is not None:
        query = f"viewStateShareKey={view}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def landing(store: Path, experiment: Experiment, port: int = PORT) -> str:
    """Returns the address that opens the experiment on its trade-off, or its table without one."""
    tags = experiment.client.get_experiment(experiment.id).tags
    view = TRADE_OFF if TAG + TRADE_OFF in tags else None
    return runs_link(experiment.id, page_of(store) or f"{HERE}:{port}", view)


def directions(store: Path, link: str) -> str:
    """Returns how to get to the address: a database has to be served first."""
    if page_of(store) is not None:
        return f"open {link}"
    return f"dpclip ui --store {store}, then open {link}"
