"""The picture of repetition: exposure against how often a canary was inserted."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.arms import COLORS, arm_name, arm_of
from reports.drawing import (
    DASHES,
    MARKERS,
    NULL_LABEL,
    NULL_STYLE,
    bars,
    panels,
    settle,
)
from reports.intervals import NULL_EXPOSURE, Interval
from reports.labels import Label, label_ends
from reports.pools import Pool
from reports.rows import TIERS, Row, number, text
from reports.table import exposure_of

APART = 0.25  # octaves over which the arms of one tier are spread


def exposure_by_repetition(
    frame: pd.DataFrame, measured: Mapping[tuple[str, str], Pool] | None = None
) -> Figure:
    """Returns mean exposure against how often a canary was inserted, a line per arm.

    Bars are 95 % intervals over seeds; where there is one seed, over its canaries.

    Args:
        frame: The summary.
        measured: (task, arm) -> its canaries, for the intervals of arms that have one seed.
    """
    figure, found = panels(frame)
    for axes, held in found:
        _repetition_panel(axes, held, measured or {})
    settle(figure)
    return figure


def _repetition_panel(
    axes: Axes, held: Sequence[Row], measured: Mapping[tuple[str, str], Pool]
) -> None:
    ends: list[Label] = []
    for index, line in enumerate(held):
        arm = arm_of(line)
        pool = measured.get((text(line, "task"), arm_name(line)))
        points = [(tier, found) for tier in TIERS if (found := _of_tier(line, tier, pool))]
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
        name = Label(tiers[-1], points[-1][1].mean, arm_name(line), COLORS[arm.clip])
        ends.append(name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(TIERS, [f"{tier}x" for tier in TIERS])
    axes.minorticks_off()
    axes.set(xlabel="times a canary was inserted", ylabel="mean exposure (bits)")
    _level(axes, NULL_EXPOSURE, NULL_LABEL, "right")
    for ceiling in sorted({round(number(line, "exp_ceiling"), 2) for line in held}):
        if math.isfinite(ceiling):
            _level(axes, ceiling, f"ceiling {ceiling:.2f}", "left")
    axes.set_ylim(bottom=0.0)
    label_ends(axes, ends)


def _of_tier(line: Row, tier: int, pool: Pool | None) -> Interval | None:
    """Returns the tier's mean and interval, over the pool's canaries where seeds give none."""
    found = exposure_of(line, tier)
    if math.isnan(found.mean):
        return None
    if not found.known and pool and tier in pool.means:
        told = pool.means[tier]
        return Interval(found.mean, told.low, told.high)
    return found


def _level(axes: Axes, height: float, label: str, side: str) -> None:
    """Draws a dashed line with its name below it, at the left or right end."""
    axes.axhline(height, **NULL_STYLE)
    left = side == "left"
    axes.annotate(
        label,
        (0.0 if left else 1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(4 if left else -2, -3),
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize=8,
        color="#666666",
    )
