"""Labels beside points, each where it covers least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

Spot: TypeAlias = tuple[float, tuple[int, int]]  # points away, (right, up)

# Directions around a point, nearest first; right and above read best.
_DIRECTIONS = ((1, 0), (1, 1), (-1, 0), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
_DISTANCES = (7.0, 16.0, 28.0, 42.0)
_SIDES = {1: "left", 0: "center", -1: "right"}
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
