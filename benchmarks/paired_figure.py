"""The picture of what arms remember beyond a baseline, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.paired_runs import Runs, difference
from reports.arms import COLORS, Arm, arm_of
from reports.drawing import DASHES, MARKERS, NULL_STYLE, bars, edge_labels, grid, settle
from reports.rows import TIERS, Row

_APART: Final = 0.14  # octaves between neighbours
_PACED: Final = "#E69F00"  # a colour of the palette that no granularity has


def exposure_differences(stores: Mapping[str, Runs], baseline: str) -> Figure:
    """Returns a panel for each store: exposure less the baseline's by how often it was inserted.

    Bars are 95 % intervals over seeds of the difference to the run of the same seed.

    Args:
        stores: heading of a panel -> its arms, the baseline among them.
        baseline: name of the arm that is zero.
    """
    figure, panels = grid(len(stores), columns=2)
    keys: dict[str, Line2D] = {}
    for axes, (title, runs) in zip(panels, stores.items(), strict=True):
        axes.axhline(0.0, **NULL_STYLE)
        axes.set_title(title, fontsize=8)
        others = [name for name in runs if name != baseline]
        for place, name in enumerate(others):
            shift = (place - (len(others) - 1) / 2) * _APART
            keys[name] = _arm(axes, runs[name], runs[baseline], shift, name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(TIERS, [f"{tier}x" for tier in TIERS])
        axes.minorticks_off()
    figure.legend(
        handles=list(keys.values()), loc="outside upper center", ncols=2, frameon=False, fontsize=8
    )
    edge_labels(
        figure, panels, "times a canary was inserted", f"exposure less that of {baseline} (bits)"
    )
    settle(figure)
    return figure


def _arm(
    axes: Axes, runs: Sequence[Row], baseline: Sequence[Row], shift: float, name: str
) -> Line2D:
    arm = arm_of(runs[0])
    found = [difference(runs, baseline, f"exp_{tier}") for tier in TIERS]
    for tier, interval in zip(TIERS, found, strict=True):
        axes.errorbar(
            tier * 2**shift, interval.mean, bars(interval, 0.0), color=_colour(arm), lw=1.0
        )
    places = [tier * 2**shift for tier in TIERS]
    (line,) = axes.plot(
        places,
        [interval.mean for interval in found],
        color=_colour(arm),
        marker=MARKERS[arm.family],
        ls=DASHES[arm.family],
        ms=4,
        lw=1.2,
        label=name,
    )
    return line


def _colour(arm: Arm) -> str:
    return _PACED if arm.pacing else COLORS[arm.clip]
