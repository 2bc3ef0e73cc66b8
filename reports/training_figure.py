"""The picture of training: loss, share of clipped groups and epsilon, step by step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.arms import COLORS, Arm, arm_name, arm_of
from reports.drawing import MARKERS, STROKES, settle
from reports.labels import Label, label_ends
from reports.rows import Row

QUANTITIES = {
    "train/loss": "training loss",
    "clip/fraction": "share of groups that are clipped",
    "privacy/eps": "epsilon spent",
}


@dataclass(frozen=True)
class Curve:
    """A quantity of one arm over training, the mean of its seeds.

    Attributes:
        arm: Which.
        name: The arm in words.
        steps: Optimizer steps, [N].
        values: The mean over seeds, [N].
    """

    arm: Arm
    name: str
    steps: np.ndarray
    values: np.ndarray


def training_curves(
    rows: Sequence[Row], series: Sequence[Mapping[str, Sequence[tuple[int, float]]]]
) -> dict[str, list[Curve]]:
    """Returns for each quantity that was recorded its curves, one per arm, as a table orders them.

    Seeds may differ a little in their steps, so values are interpolated to the steps of the run
    that has fewest. Values that are not finite are left out: epsilon only where it is claimed. An
    arm without clipping has no share of clipped groups. One point makes no curve.

    Args:
        rows: One flat dict per run.
        series: For each row its series, name -> (step, value) pairs with growing steps.

    Raises:
        ValueError: If rows and series do not match in number.
    """
    if len(rows) != len(series):
        raise ValueError(
            f"there are {len(rows)} rows and {len(series)} series, expected one for each row"
        )
    arms: dict[Arm, list[int]] = {}
    for index, row in enumerate(rows):
        arms.setdefault(arm_of(row), []).append(index)
    found: dict[str, list[Curve]] = {}
    for quantity in QUANTITIES:
        for arm in sorted(arms, key=lambda arm: arm.order):
            runs = [_finite(series[index].get(quantity, ())) for index in arms[arm]]
            told = not (quantity == "clip/fraction" and arm.clip == "none")
            if told and all(len(run) > 1 for run in runs):
                name = arm_name(rows[arms[arm][0]])
                found.setdefault(quantity, []).append(Curve(arm, name, *_mean(runs)))
    return found


def training(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Returns a panel per quantity with a line per arm; colour and dashes are the granularity's.

    Raises:
        ValueError: If there are no curves.
    """
    if not curves:
        raise ValueError("there are no curves, expected at least one quantity with two points")
    figure = Figure(figsize=(7.2, 3.2 * len(curves)), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(len(curves), 1, sharex=True, squeeze=False)
    several = len({curve.arm.task for held in curves.values() for curve in held}) > 1
    for axes, (quantity, held) in zip(every.flat, curves.items(), strict=True):
        for curve in held:
            _line(axes, curve)
        _settle_axis(axes, quantity)
        label_ends(axes, [_end(curve, several) for curve in held])
    every[-1, 0].set_xlabel("step")
    settle(figure)
    return figure


def _settle_axis(axes: Axes, quantity: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_ylabel(QUANTITIES[quantity])
    if quantity == "train/loss":
        axes.set_yscale("log")  # a loss that grows would hide all that fall
    else:
        axes.set_ylim(bottom=0.0)


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _mean(runs: Sequence[Sequence[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and means; a run beyond its last step has no value, so all end together."""
    fewest = min(runs, key=len)
    last = min(run[-1][0] for run in runs)
    first = max(run[0][0] for run in runs)
    steps = np.clip(np.array([step for step, _ in fewest], np.float64), first, last)
    each = [np.interp(steps, *np.array(run, np.float64).T) for run in runs]
    return steps, np.mean(each, axis=0)


def _line(axes: Axes, curve: Curve) -> None:
    axes.plot(
        curve.steps,
        curve.values,
        color=COLORS[curve.arm.clip],
        ls=STROKES[curve.arm.clip],
        lw=1.3,
        marker=MARKERS[curve.arm.family],
        ms=3.5,
        markevery=[-1],
        label=curve.name,
    )


def _end(curve: Curve, several: bool) -> Label:
    name = f"{curve.arm.task}: {curve.name}" if several else curve.name
    return Label(curve.steps[-1], curve.values[-1], name, COLORS[curve.arm.clip])
