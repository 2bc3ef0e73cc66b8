"""What a person sees in MLflow after a sweep of eighteen runs: the real server, a real browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.arms import COLORS, arm_name, run_name
from reports.rows import Row
from reports.tracking import Experiment, Origin, finish, log_run, open_experiment, start_sweep
from reports.ui import landing, runs_link
from reports.views import BY_GRANULARITY, save_views

pytest.importorskip("selenium", reason="selenium is not installed")
from benchmarks.view import browser, columns, drawn, missing, png, runs, served, tidy, wait_for

pytestmark = [
    pytest.mark.ui,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture(scope="module")
def rows(sweep_of: Callable[[int], list[dict[str, Any]]]) -> list[Row]:
    """Six arms with three seeds each, one of them with noise."""
    every = sweep_of(3)
    return [*every[:3], *every[6:18], *every[-3:]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    store = tmp_path_factory.mktemp("seen")
    shutil.copy(migrated, store / "mlflow.db")
    return store


@pytest.fixture(scope="module")
def experiment(store: Path, rows: list[Row]) -> Iterator[Experiment]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        experiment = open_experiment(store, "digits")
        sweep_id = start_sweep(experiment, "sweep of 18 runs")
        for row in rows:
            loss = [(step, 1 / step) for step in range(1, 9)]
            log_run(
                experiment,
                row,
                sweep_id=sweep_id,
                series={"train/loss": loss},
                origin=Origin(data="digits", digest="c0ffee", facts={"records": 1797}),
            )
        finish(experiment, sweep_id)
        assert save_views(experiment, rows)
        yield experiment


@pytest.fixture(scope="module")
def port(store: Path, experiment: Experiment) -> Iterator[int]:
    with served(store) as port:
        yield port


@pytest.fixture(scope="module")
def driver(port: int) -> Iterator[Any]:
    with browser() as driver:
        yield driver


def colours(driver: Any) -> set[str]:
    """Returns the colours of the runs that the page lists, as #RRGGBB."""
    script = """
        const dots = document.querySelectorAll('[data-testid="experiment-view-table-run-color"]');
        return [...dots].map(dot => getComputedStyle(dot).backgroundColor.match(/\\d+/g));
    """
    found = driver.execute_script(script)
    return {"#" + bytes(map(int, color)).hex().upper() for color in found}


def test_the_link_shows_all_runs_and_three_charts(
    driver: Any, store: Path, experiment: Experiment, port: int, rows: list[Row], tmp_path: Path
) -> None:
    driver.get(landing(store, experiment, port))
    wait_for(lambda: len(drawn(driver)) == 3 and all(drawn(driver).values()))
    tidy(driver)
    charts = wait_for(lambda: all(drawn(driver).values()) and drawn(driver))  # they have moved
    assert charts.pop("acc vs. exposure") == 18
    assert charts.pop("sigma vs. exposure") == 18
    assert list(charts) == ["Parallel Coordinates"]
    assert sorted(runs(driver)) == sorted(run_name(row) for row in rows)
    assert "18 matching runs" in driver.find_element("tag name", "body").text
    assert colours(driver) == {COLORS[name] for name in ("none", "sample", "microbatch", "core")}
    (tmp_path / "view.png").write_bytes(shot := png(driver))
    assert 20_000 < len(shot) < 300_000


def test_the_table_has_what_varies_and_what_was_found(
    driver: Any, store: Path, experiment: Experiment, port: int
) -> None:
    driver.get("about:blank")
    driver.get(landing(store, experiment, port).replace("=CHART", "=TABLE"))
    tidy(driver)
    shown = wait_for(lambda: "exposure" in columns(driver) and columns(driver))
    found = ["clip", "mb", "weighting", "C", "sigma", "acc", "exposure"]
    assert [name for name in shown if name in found] == found
    assert "lr" not in shown  # it is the same for all


def test_the_other_view_has_a_group_for_each_arm(
    driver: Any, experiment: Experiment, port: int, rows: list[Row]
) -> None:
    driver.get("about:blank")
    driver.get(runs_link(experiment.id, f"http://127.0.0.1:{port}", BY_GRANULARITY))
    charts = wait_for(lambda: drawn(driver).get("train/loss") and drawn(driver))
    arms = {arm_name(row) for row in rows}
    assert charts["acc"] == charts["exposure"] == len(arms) == 6
    assert "Group by: dpclip.arm" in driver.find_element("tag name", "body").text
