"""Looking at a store: the server's command, and the link that lands on the table of runs."""

import sys
from pathlib import Path

from reports.tracking import tracking_uri

PORT = 5000


def ui_command(store: Path, port: int = PORT) -> list[str]:
    """Returns the command that serves the store on this machine only.

    Raises:
        ValueError: If MLFLOW_TRACKING_URI names a server, which has a page of its own.
    """
    uri = tracking_uri(store)
    if uri.startswith(("http:", "https:", "databricks")):
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {uri}, expected a database; that server has its own page: "
            "open it in a browser, or unset the variable to see the runs of the store"
        )
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, *where]


def runs_link(experiment_id: str, server: str = f"http://127.0.0.1:{PORT}") -> str:
    """Returns the address of an experiment's table of runs.

    MLflow opens an experiment on its page for language-model apps, which is empty here; the
    workflow in the address leads to the runs. Sorted by a metric they all show; otherwise they
    are folded away under their sweep.
    """
    query = "compareRunsMode=TABLE&workflowType=machine_learning"
    query += "&orderByKey=metrics.%60exposure%60&orderByAsc=true"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"
