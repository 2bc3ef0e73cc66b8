"""The picture that answers a sweep, utility against exposure; all other pictures by name."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from reports.arms import COLORS, arm_name, arm_of
from reports.drawing import (
    MARKERS,
    NULL_LABEL,
    NULL_STYLE,
    bars,
    legend,
    panels,
    settle,
)
from reports.exposure_figures import exposure_histogram, exposure_histograms
from reports.intervals import NULL_EXPOSURE
from reports.labels import Label, place
from reports.repetition_figure import exposure_by_repetition
from reports.rows import Row, number, text, utility_named
from reports.table import exposure_of, lines, utility_interval

__all__ = [
    "exposure_by_repetition",
    "exposure_histogram",
    "exposure_histograms",
    "trade_off",
]

EXPOSURE_LABEL = "exposure of canaries inserted once (bits)"


def trade_off(frame: pd.DataFrame) -> Figure:
    """Returns utility against 1x exposure with 95 % bars, a panel per task; better is up and left.

    Colour is the granularity, the marker the kind of bound; the dashed line is the null.
    """
    figure, found = panels(frame)
    drawn = [(axes, [line for line in held if _drawable(line)]) for axes, held in found]
    for axes, held in drawn:
        _trade_off_panel(axes, held)
    legend(figure, lines(frame))
    settle(figure)
    for axes, held in drawn:
        _label_points(axes, held)
    return figure


def _drawable(line: Row) -> bool:
    return not math.isnan(exposure_of(line).mean) and not math.isnan(number(line, "utility"))


def _trade_off_panel(axes: Axes, held: Sequence[Row]) -> None:
    for line in held:
        arm, exposure, utility = arm_of(line), exposure_of(line), utility_interval(line)
        axes.errorbar(
            exposure.mean,
            utility.mean,
            xerr=bars(exposure),
            yerr=bars(utility),
            fmt=MARKERS[arm.family],
            color=COLORS[arm.clip],
            ms=7 if arm.family == "none" else 6,
            elinewidth=0.9,
            mec="white",
            mew=0.6,
            zorder=3,
        )
    utility_kind = utility_named(text(held[0], "metric")) if held else None
    label = utility_kind.label if utility_kind else "utility"
    axes.set(xlabel=EXPOSURE_LABEL, ylabel=label)
    if utility_kind and not utility_kind.higher_is_better:
        axes.invert_yaxis()
        axes.set_ylabel(f"{label} (lower is better; axis inverted)")
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    # The null's label outside of the panel would leave no room for the panel.
    axes.set_xlim(min(max(low, 0.0), NULL_EXPOSURE - 0.3), max(high, NULL_EXPOSURE + 0.3))
    _null_line(axes)


def _null_line(axes: Axes) -> None:
    axes.axvline(NULL_EXPOSURE, **NULL_STYLE)
    axes.annotate(
        NULL_LABEL,
        (NULL_EXPOSURE, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color="#666666",
    )


def _label_points(axes: Axes, held: Sequence[Row]) -> None:
    """Writes the arms' names beside their points, once the layout has its final size."""
    agg = axes.figure.canvas
    assert isinstance(agg, FigureCanvasAgg)
    labels = [
        Label(
            exposure_of(line).mean,
            number(line, "utility"),
            arm_name(line),
            COLORS[arm_of(line).clip],
        )
        for line in held
    ]
    null = axes.transData.transform((NULL_EXPOSURE, 0.0))[0]
    frame = axes.get_window_extent()
    obstacles = [Bbox.from_extents(null - 1, frame.y0, null + 1, frame.y1)]
    place(axes, agg, labels, obstacles + [box for line in held for box in _bar_boxes(axes, line)])


def _bar_boxes(axes: Axes, line: Row) -> list[Bbox]:
    """Returns the error bars of a point as thin boxes, which labels should not cover."""
    exposure, utility = exposure_of(line), utility_interval(line)
    ends = []
    if exposure.known:
        ends.append(((exposure.low, utility.mean), (exposure.high, utility.mean)))
    if utility.known:
        ends.append(((exposure.mean, utility.low), (exposure.mean, utility.high)))
    return [Bbox(axes.transData.transform(pair)).padded(1.5) for pair in ends]
