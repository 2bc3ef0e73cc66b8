"""Pictures of a summary: utility against exposure, exposure by repetition, exposure's null."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from reports.arms import COLORS, arm_name, arm_of
from reports.drawing import (
    DASHES,
    LEADER,
    MARKERS,
    NULL_LABEL,
    NULL_STYLE,
    bars,
    canvas,
    legend,
    panels,
    settle,
)
from reports.intervals import NULL_EXPOSURE
from reports.labels import Label, place
from reports.rows import TIERS, Row, number, text, utility_named
from reports.table import exposure_of, lines, utility_interval

APART = 0.25  # octaves over which the arms of one tier are spread
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


def exposure_by_repetition(frame: pd.DataFrame) -> Figure:
    """Returns mean exposure against how often a canary was inserted, a line per arm."""
    figure, found = panels(frame)
    for axes, held in found:
        _repetition_panel(axes, held)
    settle(figure)
    return figure


def exposure_histogram(exposures: Sequence[float], ceiling: float) -> Figure:
    """Returns the canaries' exposures beside the density that untrained canaries would have.

    Args:
        exposures: One value per canary, in bits.
        ceiling: The largest exposure that could be measured, log2 of (references + 1).
    """
    figure, (axes,) = canvas(1)
    edges = np.linspace(0.0, max(ceiling, 1.0), max(8, round(2 * ceiling)) + 1)
    axes.hist(
        np.clip(exposures, 0.0, edges[-1]),
        bins=list(edges),
        density=True,
        color=COLORS["sample"],
        alpha=0.55,
        edgecolor="white",
        label=f"{len(exposures)} canaries, mean {np.mean(exposures):.2f}",
    )
    grid = np.linspace(0.0, edges[-1], 400)
    null = math.log(2) * np.exp2(-grid)
    axes.plot(grid, null, color="black", lw=1.5, label=f"null, mean {NULL_EXPOSURE:.2f}")
    axes.axvline(ceiling, **NULL_STYLE)
    axes.set(xlabel="exposure (bits)", ylabel="density", xlim=(0, edges[-1] * 1.04))
    axes.annotate(
        f"ceiling {ceiling:.1f}",
        (ceiling, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color="#666666",
    )
    axes.legend(frameon=False, fontsize=8, loc="upper center")
    settle(figure)
    return figure


def _label(line: Row, x: float, y: float) -> Label:
    return Label(x, y, arm_name(line), COLORS[arm_of(line).clip])


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


def _repetition_panel(axes: Axes, held: Sequence[Row]) -> None:
    ends: list[Label] = []
    for index, line in enumerate(held):
        arm = arm_of(line)
        measured = [(tier, exposure_of(line, tier)) for tier in TIERS]
        points = [(tier, found) for tier, found in measured if not math.isnan(found.mean)]
        if not points:
            continue
        # Arms share a tier, so their bars stand side by side.
        tiers = [tier * 2 ** (APART * (index / len(held) - 0.5)) for tier, _ in points]
        axes.errorbar(
            tiers,
            [found.mean for _, found in points],
            yerr=np.hstack([bars(found, missing=0.0) for _, found in points]),
            fmt=MARKERS[arm.family],
            ls=DASHES[arm.family],
            color=COLORS[arm.clip],
            ms=4.5,
            lw=1.3,
            elinewidth=0.8,
            mec="white",
            mew=0.4,
        )
        ends.append(_label(line, tiers[-1], points[-1][1].mean))
    axes.axhline(NULL_EXPOSURE, **NULL_STYLE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(TIERS, [f"{tier}x" for tier in TIERS])
    axes.set(xlabel="times a canary was inserted", ylabel="mean exposure (bits)")
    axes.set_ylim(bottom=0.0)
    axes.annotate(
        NULL_LABEL,
        (1.0, NULL_EXPOSURE),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color="#666666",
    )
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: Sequence[Label]) -> None:
    """Writes the names at the right edge, moved apart just enough to be read."""
    ordered = sorted(ends, key=lambda label: label.y)
    for label, y in zip(ordered, _apart([label.y for label in ordered], axes), strict=True):
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.03, y),
            textcoords=axes.get_yaxis_transform(),
            arrowprops=LEADER | {"color": label.color, "relpos": (0.0, 0.5)},
            va="center",
            fontsize=8,
            color=label.color,
        )


def _apart(heights: Sequence[float], axes: Axes) -> np.ndarray:
    """Returns sorted heights moved as little as least squares allows to be one line apart."""
    if not heights:
        return np.array([])
    low, high = axes.get_ylim()
    steps = np.arange(len(heights)) * (high - low) * 0.045
    moved = isotonic_regression(np.asarray(heights) - steps).x + steps
    return np.asarray(moved - max(0.0, moved[-1] - high))
