"""The picture of claims: lower bounds of the audit beside the epsilons that are claimed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from reports.arms import COLORS, Arm, arm_name, arm_of
from reports.claims import claims_epsilon, out_of_reach
from reports.drawing import NULL_STYLE, settle
from reports.labels import Label, place
from reports.rows import Row, number, text

RECORDS, GRADIENTS = "records", "gradient canaries"
MARKERS = {RECORDS: "o", GRADIENTS: "D"}
CEILING: dict[str, Any] = {"marker": "_", "ms": 13, "mew": 1.6, "ls": ""}
SPREAD = 0.3  # of the place of an arm that its seeds take up, where places have no scale


def bound_against_claim(rows: Sequence[Row]) -> Figure:
    """Returns the audit's lower bound against the claimed epsilon, a point per run.

    Points above the diagonal contradict their claim. The dash is the ceiling: what a perfect attack
    of that design could have shown; a hollow point has it below its claim, which could not have
    been contradicted. Arms that claim nothing stand in a panel of their own. Both axes are
    logarithmic and linear near 0, so that a bound of 0 has its place.

    Args:
        rows: One flat dict per run; those without `eps_lb` are not drawn.

    Raises:
        ValueError: If no run has a bound.
    """
    held = bounded(rows)
    if not held:
        raise ValueError("no run has a lower bound on epsilon, expected eps_lb in one at least")
    claiming = [row for row in held if claims_epsilon(row)]
    silent = [row for row in held if not claims_epsilon(row)]
    figure, panels = _panels(bool(claiming), len(_arms(silent)))
    threshold = _threshold(held)
    if claiming:
        _claims_panel(panels[0], claiming)
    if silent:
        _silent_panel(panels[-1], silent)
    top = _top(held)
    panels[0].set_yscale("symlog", linthresh=threshold, linscale=0.4)
    panels[0].set_ylim(0.0, top)
    _numbered(panels[0].yaxis, threshold, top)
    panels[0].set_ylabel("lower bound on epsilon by the audit")
    figure.legend(
        handles=_keys(held),
        loc="outside upper center",
        ncols=2 if len(panels) == 1 else 3,
        frameon=False,
        fontsize=8,
    )
    settle(figure)
    if claiming:
        _name_arms(panels[0], claiming)
    return figure


def bounded(rows: Sequence[Row]) -> list[Row]:
    """Returns the runs with a finite lower bound, which alone can be drawn."""
    return [row for row in rows if math.isfinite(number(row, "eps_lb"))]


def _arms(rows: Sequence[Row]) -> dict[Arm, list[Row]]:
    arms: dict[Arm, list[Row]] = {}
    for row in rows:
        arms.setdefault(arm_of(row), []).append(row)
    return {arm: arms[arm] for arm in sorted(arms, key=lambda arm: arm.order)}


def _top(rows: Sequence[Row]) -> float:
    """Returns the height of the picture: bounds, ceilings, and the diagonal at the left."""
    claims = [number(row, "eps") for row in rows if claims_epsilon(row)]
    columns = ("eps_lb", "eps_lb_ceiling")
    found = [number(row, column) for row in rows for column in columns]
    return 1.6 * max([1.0, min(claims, default=0.0), *filter(math.isfinite, found)])


def _threshold(rows: Sequence[Row]) -> float:
    """Returns below what the axes are linear: 0.1, or less where something small must be seen."""
    found = [number(row, column) for row in rows for column in ("eps_lb", "eps")]
    small = min((value for value in found if 0 < value < math.inf), default=1.0)
    return float(min(0.1, 10.0 ** math.floor(math.log10(small))))


def _panels(claiming: bool, silent: int) -> tuple[Figure, list[Axes]]:
    """Returns a panel for claims and one for arms without, as wide as they need to be."""
    widths = ([4.6] if claiming else []) + ([max(1.2, 0.45 * silent + 0.5)] if silent else [])
    figure = Figure(figsize=(max(5.2, sum(widths) + 0.8), 4.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)
    panels: list[Axes] = list(every.flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def _claims_panel(axes: Axes, rows: Sequence[Row]) -> None:
    for row in rows:
        _point(axes, number(row, "eps"), row)
    claims = [number(row, "eps") for row in rows]
    limits = (0.5 * min(claims), 2.0 * max(claims))
    line = _diagonal(limits)
    axes.plot(line, line, label="diagonal", **NULL_STYLE)
    axes.fill_between(line, line, 1e9, color="#777777", alpha=0.12, lw=0, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    _numbered(axes.xaxis, *limits)
    axes.set_xlabel("claimed epsilon")


def _diagonal(limits: tuple[float, float]) -> np.ndarray:
    return np.geomspace(*limits, 200)


def _silent_panel(axes: Axes, rows: Sequence[Row]) -> None:
    arms = _arms(rows)
    for place_of, held in enumerate(arms.values()):
        for row, shift in zip(held, _shifts(len(held)), strict=True):
            _point(axes, place_of + shift, row)
    several = len({arm.task for arm in arms}) > 1
    names = [_name(held[0], several) for held in arms.values()]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_title("no epsilon is claimed", fontsize=8)


def _shifts(count: int) -> np.ndarray:
    return np.linspace(-SPREAD, SPREAD, count) if count > 1 else np.zeros(1)


def _point(axes: Axes, x: float, row: Row) -> None:
    """Draws the bound of a run and, where it is recorded, the ceiling of its audit."""
    color = COLORS[arm_of(row).clip]
    ceiling = number(row, "eps_lb_ceiling")
    if math.isfinite(ceiling):
        axes.plot([x], [ceiling], color=color, label="ceiling", **CEILING)
    axes.plot(
        [x],
        [number(row, "eps_lb")],
        marker=_marker(row),
        color=color,
        mfc="white" if out_of_reach(row) else color,
        ms=5,
        ls="",
        label="bound",
        clip_on=False,
        zorder=3,
    )


def _marker(row: Row) -> str:
    return MARKERS.get(text(row, "eps_lb_by"), MARKERS[RECORDS])


def _numbered(axis: Axis, low: float, high: float) -> None:
    """Writes 0 and the decades as numbers, with 2 and 5 between them where they have room."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    marks = [step * 10.0**power for power in decades for step in steps]
    axis.set_major_locator(FixedLocator([0.0, *(mark for mark in marks if low <= mark <= high)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _name(row: Row, several: bool) -> str:
    return f"{text(row, 'task')}: {arm_name(row)}" if several else arm_name(row)


def _name_arms(axes: Axes, rows: Sequence[Row]) -> None:
    """Writes each claiming arm's name beside its highest bound."""
    arms = _arms(rows)
    several = len({arm.task for arm in arms}) > 1
    labels = []
    for arm, held in arms.items():
        top = max(held, key=lambda row: number(row, "eps_lb"))
        at = number(top, "eps"), number(top, "eps_lb")
        labels.append(Label(*at, _name(top, several), COLORS[arm.clip]))
    agg = axes.figure.canvas
    assert isinstance(agg, FigureCanvasAgg)
    place(axes, agg, labels, _obstacles(axes, rows))


def _obstacles(axes: Axes, rows: Sequence[Row]) -> list[Bbox]:
    """Returns the boxes of points, ceilings and the diagonal, in display coordinates."""
    line = _diagonal(axes.get_xlim())[::5]
    spots = [(x, x, 2.0) for x in line if x < axes.get_ylim()[1]]
    for row in rows:
        spots.append((number(row, "eps"), number(row, "eps_lb"), 8.0))
        if math.isfinite(ceiling := number(row, "eps_lb_ceiling")):
            spots.append((number(row, "eps"), ceiling, 14.0))
    centres = axes.transData.transform([(x, y) for x, y, _ in spots])
    return [
        Bbox.from_extents(x - size, y - min(size, 8.0), x + size, y + min(size, 8.0))
        for (x, y), (_, _, size) in zip(centres, spots, strict=True)
    ]


def _keys(rows: Sequence[Row]) -> list[Line2D | Patch]:
    """Returns what markers and lines mean, of those that occur."""
    named = {text(row, "eps_lb_by") for row in rows}
    style: dict[str, Any] = {"ls": "", "color": "black", "ms": 5}
    keys: list[Line2D | Patch] = [
        Line2D([], [], marker=MARKERS[by], label=f"bound from {by}", **style)
        for by in MARKERS
        if by in named
    ]
    if named - set(MARKERS):
        keys.append(Line2D([], [], marker="o", label="bound, source not recorded", **style))
    if any(out_of_reach(row) for row in rows):
        hollow = style | {"mfc": "white"}
        keys.append(Line2D([], [], marker="o", label="claim above the ceiling", **hollow))
    recorded = any(math.isfinite(number(row, "eps_lb_ceiling")) for row in rows)
    told = "ceiling: a perfect attack" if recorded else "ceiling: not recorded"
    dash: dict[str, Any] = CEILING if recorded else {"ls": ""}
    keys.append(Line2D([], [], color="black", label=told, **dash))
    if any(claims_epsilon(row) for row in rows):
        keys.append(Patch(color="#777777", alpha=0.25, label="contradicts the claim"))
    return keys
