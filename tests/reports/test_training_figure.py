import math
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.colors import to_hex

from reports.arms import COLORS
from reports.rows import Row
from reports.training_figure import QUANTITIES, training, training_curves

Make = Callable[..., dict[str, Any]]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}
ROWS = 4


@pytest.fixture
def rows(row: Make) -> list[Row]:
    return [row(seed=0), row(seed=1), row(seed=0, **SAMPLE), row(seed=1, **SAMPLE)]


def series(loss: float = 2.0, steps: int = 10, eps: float = math.inf) -> dict[str, Any]:
    """As it comes out of JSON: lists, two points each."""
    return {
        "train/loss": [[steps, loss], [2 * steps, loss / 2]],
        "clip/fraction": [[steps, 0.5], [2 * steps, 0.25]],
        "privacy/eps": [[steps, eps], [2 * steps, 2 * eps]],
    }


def test_seeds_are_averaged(rows: list[Row]) -> None:
    found = training_curves(rows, [series(2.0), series(4.0), series(1.0), series(1.0)])
    none, sample = found["train/loss"]
    assert (none.name, sample.name) == ("no clipping", "sample C=0.1")
    assert none.steps.tolist() == [10, 20]
    assert none.values.tolist() == [3.0, 1.5]


def test_seeds_with_other_steps_are_interpolated(row: Make) -> None:
    short = {"train/loss": [(10, 1.0), (20, 0.0)]}
    long = {"train/loss": [(12, 3.0), (18, 1.0), (24, 0.0)]}
    (curve,) = training_curves([row(seed=0), row(seed=1)], [short, long])["train/loss"]
    assert curve.steps.tolist() == [12, 20]
    assert curve.values.tolist() == pytest.approx([(0.8 + 3.0) / 2, (0.0 + 2 / 3) / 2])
    later = {"train/loss": [(10, 1.0), (30, 0.0)]}
    (curve,) = training_curves([row(seed=0), row(seed=1)], [later, long])["train/loss"]
    assert curve.steps.tolist() == [12, 24]
    assert curve.values.tolist() == pytest.approx([(0.9 + 3.0) / 2, (0.3 + 0.0) / 2])


def test_only_what_means_something_is_drawn(rows: list[Row]) -> None:
    found = training_curves(rows, [series(), series(), series(eps=1.0), series(eps=3.0)])
    assert [curve.name for curve in found["clip/fraction"]] == ["sample C=0.1"]
    assert [curve.name for curve in found["privacy/eps"]] == ["sample C=0.1"]
    assert found["privacy/eps"][0].values.tolist() == [2.0, 4.0]
    one_point = {"train/loss": [(10, 1.0)]}
    assert training_curves(rows[:1], [one_point]) == {}
    assert training_curves(rows[:1], [{}]) == {}


def test_rows_without_series_are_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="4 rows and 1 series"):
        training_curves(rows, [series()])
    with pytest.raises(ValueError, match="no curves"):
        training({})


def test_a_panel_per_quantity_with_a_named_line_per_arm(rows: list[Row]) -> None:
    found = training_curves(rows, [series(), series(), series(eps=1.0), series(eps=1.0)])
    panels = training(found).axes
    assert [axes.get_ylabel() for axes in panels] == list(QUANTITIES.values())
    loss = panels[0]
    assert {text.get_text() for text in loss.texts} == {"no clipping", "sample C=0.1"}
    assert [to_hex(line.get_color()).upper() for line in loss.lines] == [
        COLORS["none"],
        COLORS["sample"],
    ]
    assert list(loss.lines[0].get_ydata()) == [2.0, 1.0]


def test_granularities_differ_in_grey_print(row: Make) -> None:
    every = [row(clip=clip, weighting="min", mb=4) for clip in COLORS]
    (axes,) = training(training_curves(every, [{"train/loss": [(1, 2.0), (2, 1.0)]}] * 5)).axes
    assert len({str(line._dash_pattern) for line in axes.lines}) == 5  # type: ignore[attr-defined]
