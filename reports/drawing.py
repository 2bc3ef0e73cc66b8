"""What all pictures share: canvas, colours, markers, bars, the null, the key to them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports.arms import COLORS, GRANULARITIES, Arm, arm_of
from reports.intervals import NULL_EXPOSURE, Interval
from reports.rows import Row, text
from reports.table import lines

MARKERS = {"none": "X", "fixed": "o", "adaptive": "s", "noise": "^"}
DASHES = {"none": "-", "fixed": "-", "adaptive": "--", "noise": ":"}
WORDS = {"sample": "per sample", "microbatch": "micro-batch", "core": "core", "cluster": "cluster"}
FAMILIES = {"fixed": "fixed bound", "adaptive": "adaptive bound", "noise": "with noise"}
# Lines of granularities differ in more than their colour, for print and for colour-blind eyes.
STROKES: dict[str, Any] = {
    "none": "-",
    "sample": (0, (5, 1)),
    "microbatch": (0, (3, 1, 1, 1)),
    "core": (0, (1, 1)),
    "cluster": (0, (6, 2, 1, 2, 1, 2)),
}
NULL_STYLE: dict[str, Any] = {"color": "#888888", "lw": 1.0, "ls": (0, (4, 3)), "zorder": 1}
NULL_LABEL = f"null {NULL_EXPOSURE:.2f}"


def panels(frame: pd.DataFrame) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """Returns a figure with one panel per task, each with the lines that belong into it."""
    tasks: dict[str, list[Row]] = {}
    for line in lines(frame):
        tasks.setdefault(text(line, "task"), []).append(line)
    figure, axes = canvas(len(tasks))
    for panel, task in zip(axes, tasks, strict=True):
        panel.set_title(task if len(tasks) > 1 else "", fontsize=10, loc="right")
    return figure, list(zip(axes, tasks.values(), strict=True))


def canvas(count: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure that pyplot knows nothing of, drawn as papers draw: no box, no grid."""
    figure = Figure(figsize=(6.4 * count, 4.2), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    found = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, found


def grid(count: int, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Returns a figure of small panels that share their axes, one large panel for a count of 1."""
    if count == 1:
        return canvas(1)
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(3.1 * columns, 2.3 * lines + 0.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    found: list[Axes] = list(every.flat)
    for index, axes in enumerate(found):
        axes.spines[["top", "right"]].set_visible(False)
        # The panel above an empty place is the lowest of its column.
        axes.tick_params(labelsize=8, labelbottom=index + columns >= count)
    for axes in found[count:]:
        axes.remove()
    return figure, found[:count]


def edge_labels(figure: Figure, panels: Sequence[Axes], x: str, y: str) -> None:
    """Writes what the axes are, once for all panels."""
    if len(panels) == 1:
        panels[0].set(xlabel=x, ylabel=y)
        return
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def settle(figure: Figure) -> None:
    """Lays out once, so that texts can be measured, and freezes the layout."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def bars(interval: Interval, missing: float = math.nan) -> np.ndarray:
    """Returns the bar's two lengths, [2, 1]."""
    if not interval.known:
        return np.full((2, 1), missing)
    return np.array([[interval.mean - interval.low], [interval.high - interval.mean]]).clip(0.0)


def legend(figure: Figure, held: Sequence[Row]) -> None:
    """Writes what colours and markers mean, of those that occur."""
    arms = [arm_of(line) for line in held]
    figure.legend(
        handles=[*_color_keys(arms), *_marker_keys(arms)],
        loc="outside upper center",
        ncols=7,
        frameon=False,
        fontsize=8,
        handletextpad=0.5,
        handlelength=1.0,
        columnspacing=1.4,
    )


def _color_keys(arms: Sequence[Arm]) -> list[Artist]:
    none = Line2D([], [], ls="", marker=MARKERS["none"], color=COLORS["none"], label="no clipping")
    clipped = [clip for clip in GRANULARITIES[1:] if any(arm.clip == clip for arm in arms)]
    patches = [Patch(color=COLORS[clip], label=WORDS[clip]) for clip in clipped]
    return [none, *patches] if any(arm.clip == "none" for arm in arms) else [*patches]


def _marker_keys(arms: Sequence[Arm]) -> list[Artist]:
    present = [family for family in FAMILIES if any(arm.family == family for arm in arms)]
    style: dict[str, Any] = {"ls": "", "mfc": "none", "mec": "black"}
    return [Line2D([], [], marker=MARKERS[f], label=FAMILIES[f], **style) for f in present]
