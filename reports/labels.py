"""Labels beside points, each where it covers least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

Spot: TypeAlias = tuple[float, tuple[int, int]]  # points away, (right, up)

# Directions around a point, nearest first; right and above read best.
_DIRECTIONS = ((1, 0), (1, 1), (-1, 0), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
_DISTANCES = (7.0, 16.0, 28.0, 42.0)
_SIDES = {1: "left", 0: "center", -1: "right"}
_LEADER: dict[str, Any] = {"arrowstyle": "-", "lw": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3}
_LINE_HEIGHT = 0.045  # of a line of text, as a share of the axes
_LINE_FROM = 12.0  # a label further away than this many points needs a line to its point


@dataclass(frozen=True)
class Label:
    """A text that belongs to the point (x, y) of the axes."""

    x: float
    y: float
    text: str
    color: str


def place(
    axes: Axes, canvas: FigureCanvasAgg, labels: Sequence[Label], obstacles: Sequence[Bbox]
) -> None:
    """Writes the labels, one after the other, each at the place that overlaps least.

    Greedy: good for a dozen points and the same for the same data. Limits of the axes must be set.

    Args:
        axes: Where the points are.
        canvas: What measures the texts.
        labels: The texts with their points.
        obstacles: What not to cover, in display coordinates.
    """
    taken = [*obstacles, *(_around(axes, label) for label in labels)]
    spots = [(distance, direction) for distance in _DISTANCES for direction in _DIRECTIONS]
    for label in labels:
        boxes = _boxes(axes, canvas, label, spots)
        costs = [_cost(axes, box, spot, taken) for box, spot in zip(boxes, spots, strict=True)]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        _annotate(axes, label, spots[best])


def label_ends(axes: Axes, ends: Sequence[Label]) -> None:
    """Writes the names of lines at the right edge, moved apart just enough to be read.

    Args:
        axes: Where the lines are; limits of the axes must be set, as they are read here.
        ends: The last point of each line, with its name.
    """
    axes.get_xlim()  # limits are computed when somebody asks
    axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    ordered = sorted(ends, key=lambda label: float(to_axes.transform((label.x, label.y))[1]))
    heights = [float(to_axes.transform((label.x, label.y))[1]) for label in ordered]
    for label, y in zip(ordered, _apart(heights), strict=True):
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.03, y),
            textcoords="axes fraction",
            arrowprops=_LEADER | {"color": label.color, "relpos": (0.0, 0.5)},
            va="center",
            fontsize=8,
            color=label.color,
        )


def _apart(heights: Sequence[float]) -> np.ndarray:
    """Returns sorted heights moved as little as least squares allows to be one line apart."""
    if not heights:
        return np.array([])
    steps = np.arange(len(heights)) * _LINE_HEIGHT
    moved = isotonic_regression(np.asarray(heights) - steps).x + steps
    # At the top and at the bottom of the axes they pile up.
    return np.asarray(np.maximum(np.minimum(moved, 1.0 - steps[::-1]), steps))


def _cost(axes: Axes, box: Bbox, spot: Spot, taken: Sequence[Bbox]) -> float:
    """Returns the area covered, plus a little for distance so that ties go to the near spot."""
    outside = box.width * box.height - _overlap(box, axes.get_window_extent())
    return sum(_overlap(box, other) for other in taken) + 4 * outside + spot[0]


def _boxes(axes: Axes, canvas: FigureCanvasAgg, label: Label, spots: Sequence[Spot]) -> list[Bbox]:
    """Returns where the text would stand at each spot, in display coordinates.

    The text is measured once, at its point, and shifted: measuring is slow.
    """
    annotation = _annotate(axes, label, (0.0, (1, 1)))
    renderer = cast(RendererAgg, canvas.get_renderer())
    annotation.update_positions(renderer)
    box = Text.get_window_extent(annotation, renderer)
    annotation.remove()
    pixels = canvas.figure.dpi / 72
    return [
        box.translated(
            right * distance * pixels - box.width * (1 - right) / 2,
            up * distance * pixels - box.height * (1 - up) / 2,
        )
        for distance, (right, up) in spots
    ]


def _annotate(axes: Axes, label: Label, spot: Spot) -> Annotation:
    distance, (right, up) = spot
    arrow = {"arrowstyle": "-", "color": label.color, "lw": 0.5, "alpha": 0.6, "shrinkB": 3}
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(right * distance, up * distance),
        textcoords="offset points",
        ha=_SIDES[right],
        va={1: "bottom", 0: "center", -1: "top"}[up],
        color=label.color,
        fontsize=8,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        arrowprops=arrow if distance > _LINE_FROM else None,
    )


def _around(axes: Axes, label: Label) -> Bbox:
    x, y = axes.transData.transform((label.x, label.y))
    return Bbox.from_extents(x - 6, y - 6, x + 6, y + 6)


def _overlap(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)
