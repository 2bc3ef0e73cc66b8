import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.document import Provenance, write
from reports.rows import Row
from reports.tracked import connect, logged, sweeps
from reports.tracking import Experiment, finish, log_run, open_experiment, start_sweep, tracking_uri

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def store(own_store: Path) -> Path:
    return own_store


@pytest.fixture
def rows(sweep: list[Row]) -> list[Row]:
    """An arm without and one with a claim, two seeds each; then one with other slots."""
    chosen = [row for row in sweep if row["clip"] == "none" or row["sigma"]]
    random = {**chosen[-1], "clip": "microbatch", "mb": 4, "slots": "random", "seed": 0}
    return [row for row in chosen if row["seed"] in (0, 1)] + [random]


def log(store: Path, rows: list[Row], files: bool = True, config: bool = True) -> list[str]:
    """Logs a sweep and returns the ids of the parent and the runs."""
    experiment = open_experiment(store, "digits")
    parent = start_sweep(experiment, "sweep")
    ids = [_log(experiment, parent, row, store / "config" if config else None) for row in rows]
    made = write(store, rows, Provenance(command="dpclip audit")) if files else []
    finish(experiment, parent, "note", made)
    return [parent, *ids]


def _log(experiment: Experiment, parent: str, row: Row, folder: Path | None) -> str:
    if folder is not None:
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(
            f"slots: {row.get('slots') or 'position'}\npacing: none\n"
        )
    series = {"train/loss": [(1, 2.0)]}
    return log_run(experiment, row, sweep_id=parent, series=series, artifacts=folder)


def test_the_summary_beside_the_runs_is_taken(store: Path, rows: list[Row]) -> None:
    parent, *ids = log(store, rows)
    (found,) = sweeps(connect(tracking_uri(store)))
    assert (found.id, found.task, found.status) == (parent, "digits", "FINISHED")
    held = logged(connect(tracking_uri(store)), found)
    assert held.exact
    assert held.rows == tuple({k: v for k, v in row.items() if v is not None} for row in rows)
    assert held.ids == tuple(ids)
    assert held.provenance is not None
    assert held.provenance.command == "dpclip audit"


def test_without_a_summary_rows_are_rebuilt(store: Path, rows: list[Row]) -> None:
    _, *ids = log(store, rows, files=False)
    client = connect(tracking_uri(store))
    held = logged(client, sweeps(client)[0])
    assert not held.exact
    assert held.ids == tuple(ids)
    assert held.provenance is None
    for row, rebuilt in zip(rows, held.rows, strict=True):
        for name in ("task", "clip", "weighting", "C", "sigma", "mb", "seed", "verdict"):
            assert rebuilt.get(name) == row[name], name
        assert rebuilt["slots"] == (row.get("slots") or "position")
        for name in ("exposure", "acc", "auc", "eps_lb", "lr"):
            assert rebuilt[name] == pytest.approx(row[name], rel=1e-3)
        assert "train/loss" not in rebuilt
    assert held.rows[0]["eps"] == math.inf
    assert held.rows[2]["eps"] == pytest.approx(8.1)
    assert held.rows[0]["guarantee"] == "none: nothing is clipped"


def test_what_a_bound_came_from_is_rebuilt(store: Path, row: Make) -> None:
    log(store, [row(eps_lb=1.5, eps_lb_by="gradient canaries", eps_lb_ceiling=8.0)], files=False)
    client = connect(tracking_uri(store))
    (found,) = logged(client, sweeps(client)[0]).rows
    assert (found["eps_lb_by"], found["eps_lb_ceiling"]) == ("gradient canaries", 8.0)


def test_a_run_of_two_that_look_alike_has_no_id(store: Path, row: Make) -> None:
    log(store, [row(slots="position"), row(slots="random", clip="microbatch", mb=4)])
    client = connect(tracking_uri(store))
    assert all(logged(client, sweeps(client)[0]).ids)
    twin = start_sweep(open_experiment(store, "digits"), "twins")
    experiment = open_experiment(store, "digits")
    for _ in range(2):
        _log(experiment, twin, row(), None)
    finish(experiment, twin, "", write(store, [row()], Provenance(command="x")))
    found = next(one for one in sweeps(client) if one.id == twin)
    assert logged(client, found).ids == ("",)


def test_the_latest_sweep_comes_first(store: Path, row: Make) -> None:
    first, *_ = log(store, [row()])
    second, *_ = log(store, [row(acc=0.5)])
    assert [one.id for one in sweeps(connect(tracking_uri(store)))] == [second, first]


@pytest.mark.parametrize(
    ("uri", "told"),
    [("sqlite:////nowhere/mlflow.db", "there is no database"), ("a/folder", "MLflow cannot read")],
)
def test_what_is_no_server_is_refused(uri: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sweeps(connect(uri))


@pytest.mark.parametrize("content", ["", "not a database"])
def test_a_database_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mlflow.db").write_text(content)
    with pytest.raises(ValueError, match="is no SQLite database"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
