import sys
from pathlib import Path

import pytest

from reports.ui import directions, page_of, runs_link, server_of


def test_the_server_is_this_pythons_mlflow_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    server = server_of(tmp_path, port=5001)
    assert server.command == [
        *(sys.executable, "-m", "mlflow", "ui"),
        *("--host", "127.0.0.1", "--port", "5001", "--workers", "1"),
    ]
    assert server.environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_databases_password_is_not_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/runs")
    server = server_of(tmp_path)
    assert "secret" not in " ".join(server.command)
    assert server.environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@db/runs"


def test_a_server_of_the_users_own_is_not_served_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    with pytest.raises(ValueError, match="that server has its own page"):
        server_of(tmp_path)


def test_the_link_lands_on_the_table_of_runs() -> None:
    assert runs_link("7", "http://localhost:5001/") == (
        "http://localhost:5001/#/experiments/7/runs"
        "?compareRunsMode=TABLE&workflowType=machine_learning"
        "&orderByKey=metrics.%60exposure%60&orderByAsc=true"
    )


def test_a_view_has_its_own_sorting() -> None:
    """MLflow ignores the view where the address sorts or filters."""
    link = runs_link("7", view="trade-off")
    assert link == (
        "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=trade-off"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("", None),
        ("sqlite:///x.db", None),
        ("postgresql://me:word@db/runs", None),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:word@runs.example/lab", "https://runs.example/lab"),
    ],
)
def test_a_server_has_a_page_and_its_password_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, page: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert page_of(tmp_path) == page
    served = f"dpclip ui --store {tmp_path}, then open LINK"
    assert directions(tmp_path, "LINK") == (served if page is None else "open LINK")
