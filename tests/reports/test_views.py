import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from reports.rows import Row
from reports.tracking import open_experiment
from reports.ui import landing
from reports.views import LIMIT, TAG, save_views, views

SweepOf = Callable[[int], list[dict[str, Any]]]


def cards(view: Any, kind: str) -> list[dict[str, Any]]:
    return [card for card in view.state["compareRunCharts"] if card["type"] == kind]


def test_the_trade_off_has_three_charts(sweep: list[Row]) -> None:
    first, _ = views(sweep)
    assert (first.key, first.name) == ("trade-off", "trade-off")
    axes = [(c["xaxis"], c["yaxis"]["key"]) for c in cards(first, "SCATTER")]
    assert axes == [
        ({"key": "acc", "type": "METRIC"}, "exposure"),
        ({"key": "sigma", "type": "PARAM"}, "exposure"),
    ]
    (lines,) = cards(first, "PARALLEL")
    assert lines["selectedParams"] == ["clip", "weighting", "sigma"]
    assert lines["selectedMetrics"] == ["acc", "exposure"]
    assert first.state["groupBy"] is None
    assert first.state["runsHiddenMode"] == "SHOW_ALL"


def test_each_task_has_its_own_utility(sweep: list[Row]) -> None:
    rows = [{**row, "acc": None, "wer": 0.1} for row in sweep]
    first, second = views(rows)
    assert cards(first, "SCATTER")[0]["xaxis"]["key"] == "wer"
    assert cards(second, "BAR")[0]["metricKey"] == "wer"
    assert "metrics.`wer`" in first.state["selectedColumns"]


def test_a_setting_that_a_run_lacks_draws_no_line(sweep: list[Row]) -> None:
    """MLflow leaves out the whole run: rows without clipping have no C."""
    rows = [{**row, "sigma": None} if row["clip"] == "core" else row for row in sweep]
    (lines,) = cards(views(rows)[0], "PARALLEL")
    assert "sigma" not in lines["selectedParams"]


def test_columns_are_those_that_vary_and_what_was_found(row: Any) -> None:
    rows = [row(seed=0, clip="sample", C=1.0, mb=1), row(seed=1, clip="core", C=1.0, mb=8)]
    assert views(rows)[0].state["selectedColumns"] == [
        *("params.`clip`", "params.`mb`"),
        *("metrics.`acc`", "metrics.`exposure`", "metrics.`auc`", "metrics.`norm_pct`"),
        *("metrics.`eps_lb`", "tags.`dpclip.verdict`", "attributes.`Dataset`"),
    ]


def test_what_all_clipped_runs_share_is_no_column(row: Any) -> None:
    """Runs without clipping have neither a weighting nor a bound, and say so by `clip`."""
    rows = [row(), row(clip="sample", weighting="clip", C=1.0, mb=1)]
    first, _ = views(rows)
    assert first.state["selectedColumns"][:3] == [
        *("params.`clip`", "params.`mb`", "metrics.`acc`"),
    ]
    assert cards(first, "PARALLEL")[0]["selectedParams"] == ["clip"]


def test_the_other_view_groups_the_seeds_of_an_arm(sweep: list[Row]) -> None:
    _, second = views(sweep)
    assert (second.key, second.name) == ("by-granularity", "by granularity")
    group = second.state["groupBy"]
    assert group["aggregateFunction"] == "average"
    assert group["groupByKeys"] == [{"mode": "tag", "groupByData": "dpclip.arm"}]
    assert [card["metricKey"] for card in cards(second, "BAR")] == ["acc", "exposure"]
    assert [card["metricKey"] for card in cards(second, "LINE")] == ["train/loss"]


def test_every_chart_has_a_section_and_a_name_of_its_own(sweep: list[Row]) -> None:
    for view in views(sweep):
        charts = view.state["compareRunCharts"]
        sections = {s["uuid"] for s in view.state["compareRunSections"] if s["display"]}
        assert {chart["metricSectionId"] for chart in charts} == sections
        assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_views_are_tags_that_mlflow_reads(own_store: Path, sweep_of: SweepOf) -> None:
    experiment = open_experiment(own_store, "digits")
    assert "compareRunsMode=TABLE" in landing(own_store, experiment)
    assert save_views(experiment, sweep_of(40))
    tags = experiment.client.get_experiment(experiment.id).tags
    for key, name in (("trade-off", "trade-off"), ("by-granularity", "by granularity")):
        held = json.loads(tags[TAG + key])
        assert (held["name"], type(held["createdAt"])) == (name, int)
        assert json.loads(held["state"])["orderByKey"] == "metrics.`exposure`"
        assert len(tags[TAG + key]) < LIMIT / 4
    link = landing(own_store, experiment, 5001)
    assert link == (
        f"http://127.0.0.1:5001/#/experiments/{experiment.id}/runs?viewStateShareKey=trade-off"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )


def test_a_server_that_takes_no_tags_is_warned_of_and_no_more(
    own_store: Path, sweep: list[Row], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    experiment = open_experiment(own_store, "digits")

    def refuse(*_: object) -> None:
        raise MlflowException("not allowed")

    monkeypatch.setattr(experiment.client, "set_experiment_tag", refuse)
    assert not save_views(experiment, sweep)
    assert "dpclip-digits were not saved: not allowed" in caplog.text
