"""Pictures of speed: exposure and errors against how much canaries were sped up."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.arms import COLORS
from reports.drawing import NULL_LABEL, NULL_STYLE, bars, canvas, edge_labels, grid, settle
from reports.intervals import NULL_EXPOSURE, Interval
from reports.speeds import Speeds

_SHADES = colormaps["viridis"]
APART = 0.03  # share of a speed by which lines are set apart, so that bars stand side by side


def exposure_by_speed(held: Sequence[Speeds], ceiling: float) -> Figure:
    """Returns a panel per arm: mean exposure against speed, a line for each repetition.

    Args:
        held: The arms.
        ceiling: The largest exposure that could have come out; NaN if not recorded.

    Raises:
        ValueError: If there are no arms.
    """
    if not held:
        raise ValueError("there are no arms with canaries of several speeds, expected at least one")
    figure, found = grid(len(held))
    tiers = sorted({tier for arm in held for tier in arm.exposure})
    shades = {t: _SHADES(0.9 * i / max(1, len(tiers) - 1)) for i, t in enumerate(tiers)}
    several = len({arm.task for arm in held}) > 1
    for axes, arm in zip(found, held, strict=True):
        for tier, means in arm.exposure.items():
            place = tiers.index(tier) - (len(tiers) - 1) / 2
            _line(axes, means, color=shades[tier], shift=1 + APART * place)
        axes.axhline(NULL_EXPOSURE, **NULL_STYLE)
        if np.isfinite(ceiling):
            axes.axhline(ceiling, **NULL_STYLE)
        axes.set_title(f"{arm.task}: {arm.name}" if several else arm.name, fontsize=8)
        _speed_axis(axes, arm.exposure[min(arm.exposure)])
        axes.set_ylim(bottom=0.0)
    keys = [Line2D([], [], marker="o", ms=4, color=shades[t], label=f"{t}x") for t in tiers]
    null = Line2D([], [], label=f"{NULL_LABEL}, ceiling", **NULL_STYLE)
    figure.legend(
        handles=[*keys, null],
        loc="outside upper center",
        ncols=len(keys) + 1,
        frameon=False,
        fontsize=8,
    )
    edge_labels(figure, found, "speed of the canaries", "mean exposure (bits)")
    settle(figure)
    return figure


def errors_by_speed(held: Sequence[Speeds]) -> Figure:
    """Returns error rates against speed: held-out canaries (lines) and inserted ones (dashed).

    Raises:
        ValueError: If no arm has error rates.
    """
    told = [arm for arm in held if arm.errors_out]
    if not told:
        raise ValueError("no arm has error rates of its canaries, expected at least one")
    figure, (axes,) = canvas(1)
    for index, arm in enumerate(told):
        shift = 1 + APART * (index - (len(told) - 1) / 2)
        _line(axes, arm.errors_out, color=COLORS[arm.clip], shift=shift)
        _line(axes, arm.errors_in, color=COLORS[arm.clip], shift=shift, dash="--")
    _speed_axis(axes, told[0].errors_out)
    axes.set(xlabel="speed of the canaries", ylabel="character error rate")
    axes.set_ylim(bottom=0.0)
    keys = [Line2D([], [], color=COLORS[arm.clip], label=arm.name) for arm in told]
    ways = [
        Line2D([], [], color="black", label="held out"),
        Line2D([], [], color="black", ls="--", label="inserted"),
    ]
    figure.legend(
        handles=[*keys, *ways], loc="outside upper center", ncols=3, frameon=False, fontsize=8
    )
    settle(figure)
    return figure


def _line(
    axes: Axes, means: Mapping[float, Interval], color: object, shift: float = 1.0, dash: str = "-"
) -> None:
    if not means:
        return
    axes.errorbar(
        [speed * shift for speed in means],
        [mean.mean for mean in means.values()],
        yerr=np.hstack([bars(mean, missing=0.0) for mean in means.values()]),
        fmt="o",
        ls=dash,
        color=color,
        ms=4,
        lw=1.3,
        elinewidth=0.8,
        mec="white",
        mew=0.4,
    )


def _speed_axis(axes: Axes, means: Mapping[float, Interval]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(means), [f"{speed:g}x" for speed in means])
    axes.minorticks_off()
