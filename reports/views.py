"""Saved views of an experiment: what MLflow's page of runs shows when its address is opened.

MLflow keeps a view as an experiment's tag that holds the state of its page. That state is not
documented and may change with MLflow, so it is written here alone, and a page that does not
understand it shows the table of runs instead.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.arms import shared_settings
from reports.experiment import Experiment
from reports.rows import Row, number, text, utility_of
from reports.run_content import ARM_TAG, KIND_TAG, METRICS, PARAMS, SHORTER

TAG = "mlflow.sharedViewState."
TRADE_OFF = "trade-off"
BY_GRANULARITY = "by-granularity"
LIMIT = 20_000  # characters per tag of an experiment that MLflow accepts

_SECTION = "memorization"
_WIDE = "all settings"  # a section with one chart a line
_SHOWN = ("clip", "mb", "weighting", "C", "sigma")
_FOUND = ("exposure", "auc", "norm_pct", "eps", "eps_lb")
_FIRST = ("attributes.`Run Name`", "duration", "runDateAndNestInfo")
_DATASET = "attributes.`Dataset`"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """A saved view: the key in its address, its name in MLflow's menu, the state of the page."""

    key: str
    name: str
    state: Mapping[str, Any]


def views(rows: Iterable[Row]) -> tuple[View, View]:
    """Returns the views `trade-off` and `by granularity` of these runs.

    The first has every run, as scatters of utility and of noise against exposure and as parallel
    coordinates; the second has the mean and the band over the seeds of each arm.
    """
    held = list(rows)
    utility = utility_of(held)
    column = [] if utility is None else [utility.column]
    return (
        View(TRADE_OFF, "trade-off", _trade_off(held, column)),
        View(BY_GRANULARITY, "by granularity", _by_granularity(held, column)),
    )


def save_views(experiment: Experiment, rows: Iterable[Row]) -> bool:
    """Returns whether the experiment now has the views; a warning says why if it has not.

    They are a convenience: runs that are logged are not given up because a server does not take
    the tags.
    """
    from mlflow.exceptions import MlflowException

    now = int(time.time() * 1000)
    try:
        for view in views(rows):
            held = {"name": view.name, "createdAt": now, "updatedAt": now}
            told = json.dumps(held | {"state": json.dumps(dict(view.state))})
            experiment.client.set_experiment_tag(experiment.id, TAG + view.key, told)
    except MlflowException as error:
        _LOG.warning("the views of experiment %s were not saved: %s", experiment.name, error)
        return False
    return True


def _trade_off(rows: Sequence[Row], utility: Sequence[str]) -> dict[str, Any]:
    against = [*((name, "METRIC") for name in utility), ("sigma", "PARAM")]
    scatters = [
        _card(f"scatter {name}", "SCATTER", **_scatter(name, kind)) for name, kind in against
    ]
    settings = _everywhere(rows, _varied(rows, ("clip", "weighting", "sigma")), 2)
    found = [*utility, *_everywhere(rows, ("auc", "norm_pct"), 2), "exposure"]
    lines = _card("parallel", "PARALLEL", _WIDE, **_parallel(settings, found))
    return _page(rows, utility, [*scatters, lines]) | {"groupBy": None}


def _by_granularity(rows: Sequence[Row], utility: Sequence[str]) -> dict[str, Any]:
    bars = [
        _card(f"bar {name}", "BAR", metricKey=name)
        for name in (*utility, "exposure", *_everywhere(rows, ("auc",), 2))
    ]
    loss = _card("loss", "LINE", metricKey="train/loss", xAxisKey="step")
    keys = [{"mode": "tag", "groupByData": ARM_TAG}]
    return _page(rows, utility, [*bars, loss]) | {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
        "useGroupedValuesInCharts": True,
    }


def _page(
    rows: Sequence[Row], utility: Sequence[str], cards: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the state that both views share: sorting, columns, and one open section of charts."""
    opened = dict.fromkeys(str(card["metricSectionId"]) for card in cards)
    sections = [_section(name, True, columns=1 if name == _WIDE else 2) for name in opened]
    # MLflow draws every metric in charts of its own, which are there, but folded.
    sections += [_section(n, False) for n in ("Model metrics", "train", "privacy", "clip", "pace")]
    columns = _columns(rows, utility)
    return {
        # Without the sweep itself, which has no metrics.
        "searchFilter": f"tags.`{KIND_TAG}` = 'audit'",
        # Sorted by a metric, runs are not folded away under their sweep.
        "orderByKey": "metrics.`exposure`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": [*_FIRST, *columns],
        "columnWidths": dict.fromkeys(columns, 85) | {_DATASET: 130},
        "compareRunCharts": list(cards),
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "runsHiddenMode": "SHOW_ALL",  # otherwise those beyond ten are hidden
    }


def _columns(rows: Sequence[Row], utility: Sequence[str]) -> list[str]:
    """Returns which columns of the table of runs are shown: what varies, and what was found."""
    settings = [f"params.`{name}`" for name in _varied(rows, _SHOWN)]
    found = [name for name in (*utility, *_FOUND) if any(_has(row, name) for row in rows)]
    return [
        *settings,
        *(f"metrics.`{SHORTER.get(name, name)}`" for name in found),
        "tags.`dpclip.verdict`",
        _DATASET,
    ]


def _everywhere(rows: Sequence[Row], names: Iterable[str], least: int = 1) -> list[str]:
    """Returns the columns that all runs have, with that many values or more."""
    full = [name for name in names if all(_has(row, name) for row in rows)]
    return [name for name in full if len(set(_words(rows, name))) >= least]


def _varied(rows: Sequence[Row], names: Iterable[str]) -> list[str]:
    """Returns the settings that differ between clipped runs; `none` is told by `clip` alone."""
    shared = shared_settings(rows)
    return [name for name in names if name not in shared and len(set(_words(rows, name))) > 1]


def _words(rows: Sequence[Row], name: str) -> list[str]:
    return [str(row[name]) if _has(row, name) else "" for row in rows]


def _has(row: Row, name: str) -> bool:
    if name in ("clip", "weighting"):
        return bool(text(row, name))
    value = number(row, name)
    return value == value and abs(value) != float("inf")


def _parallel(settings: Sequence[str], found: Sequence[str]) -> dict[str, Any]:
    assert set(settings) <= set(PARAMS)
    assert set(found) <= set(METRICS)
    return {"selectedParams": list(settings), "selectedMetrics": list(found), "showAllRuns": True}


def _scatter(name: str, kind: str) -> dict[str, Any]:
    return {"xaxis": {"key": name, "type": kind}, "yaxis": {"key": "exposure", "type": "METRIC"}}


def _card(uuid: str, kind: str, section: str = _SECTION, **more: Any) -> dict[str, Any]:
    held = {"uuid": uuid, "type": kind, "metricSectionId": section, "runsCountToCompare": 100}
    return held | {"deleted": False, "isGenerated": False} | more


def _section(name: str, shown: bool, **more: Any) -> dict[str, Any]:
    held = {"uuid": name, "name": name, "display": shown}
    return held | {"isReordered": True, "deleted": False, "isGenerated": False} | more
