import math
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from reports.arms import COLORS
from reports.figures import trade_off
from reports.intervals import NULL_EXPOSURE
from reports.rows import Row
from reports.table import summarize

MakeRow = Callable[..., dict[str, Any]]


def texts(axes: Axes) -> list[str]:
    return [found.get_text() for found in axes.texts]


def legend_texts(figure: Figure) -> list[str]:
    return [found.get_text() for found in figure.legends[0].get_texts()]


def test_every_arm_is_a_labelled_point_with_bars_in_its_colour(sweep: list[Row]) -> None:
    frame = summarize(sweep)
    (axes,) = trade_off(frame).axes
    assert len(axes.containers) == len(frame)
    assert set(frame["arm"]) <= set(texts(axes))
    points = [container[0] for container in axes.containers]  # type: ignore[index]
    assert [to_hex(point.get_color()).upper() for point in points] == [
        COLORS[clip] for clip in frame["clip"]
    ]
    assert [point.get_xdata()[0] for point in points] == pytest.approx(list(frame["exposure"]))
    assert axes.get_ylabel() == "accuracy"


def test_the_null_is_a_labelled_line_within_the_picture(sweep: list[Row]) -> None:
    (axes,) = trade_off(summarize(sweep)).axes
    assert "null 1.44" in texts(axes)
    assert any(list(line.get_xdata()) == [NULL_EXPOSURE] * 2 for line in axes.lines)
    assert axes.get_xlim()[0] < NULL_EXPOSURE < axes.get_xlim()[1]


def test_markers_tell_fixed_adaptive_and_noise_apart(sweep: list[Row]) -> None:
    figure = trade_off(summarize(sweep))
    markers = [container[0].get_marker() for container in figure.axes[0].containers]  # type: ignore[index]
    assert markers == ["X", "o", "o", "o", "o", "s", "s", "^"]
    assert legend_texts(figure) == [
        *("no clipping", "per sample", "micro-batch", "core"),
        *("fixed bound", "adaptive bound", "with noise"),
    ]


def test_the_legend_names_only_what_occurs(row: MakeRow) -> None:
    assert legend_texts(trade_off(summarize([row()]))) == ["no clipping"]


def test_labels_do_not_cover_each_other(sweep: list[Row], row: MakeRow) -> None:
    point = {"exposure": 3.2, "exp_low": 3.0, "exp_high": 3.4, "acc": 0.95}
    rule = {"clip": "sample", "weighting": "clip"}
    twins = [row(**rule, **point, C=bound) for bound in (3.0, 4.0, 5.0)]
    frame = summarize([*sweep, *twins])
    figure = trade_off(frame)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    named = [found for found in figure.axes[0].texts if found.get_text() in set(frame["arm"])]
    boxes = [Text.get_window_extent(found, renderer) for found in named]  # without its line
    common = [Bbox.intersection(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    areas = [box.width * box.height for box in common if box is not None]
    assert sum(areas) < 0.02 * sum(box.width * box.height for box in boxes)


def test_better_is_always_up(row: MakeRow) -> None:
    (axes,) = trade_off(summarize([row(acc=None, ppl=8.5)])).axes
    assert axes.yaxis_inverted()
    assert axes.get_ylabel().startswith("perplexity (lower is better")


def test_tasks_have_a_panel_each(row: MakeRow) -> None:
    figure = trade_off(summarize([row(), row(task="text", acc=None, ppl=8.5)]))
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["digits", "text"]


def test_an_arm_without_exposure_is_left_out(row: MakeRow) -> None:
    bare = row(clip="sample", C=1.0, exposure=None, exp_1=None)
    (axes,) = trade_off(summarize([row(), bare])).axes
    assert len(axes.containers) == 1


def test_one_point_far_below_the_null_leaves_room_for_the_panel(row: MakeRow) -> None:
    line = row(exposure=0.2, exp_low=math.nan, exp_high=math.nan)
    (axes,) = trade_off(summarize([line])).axes
    low, high = axes.get_xlim()
    assert low < 0.2 < NULL_EXPOSURE < high
