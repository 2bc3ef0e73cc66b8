"""ROC curves where they matter, at low false positive rates, and no further than the data go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from reports.arms import COLORS
from reports.drawing import NULL_STYLE, edge_labels, grid, settle
from reports.pools import Pool

Rates = NDArray[np.float64]
BELOW = 0.4  # of one record: where 0 stands beside the smallest rate that is not 0
MARK: dict[str, Any] = {"color": "black", "lw": 0.9, "ls": ":", "zorder": 1}


@dataclass(frozen=True, eq=False)
class Curve:
    """A ROC curve with its band.

    Attributes:
        fpr, tpr: [points] rates, growing from (0, 0) to (1, 1).
        low, high: [points] limits of the TPR at each point.
        members, non_members: How many scores are behind the rates.
        name: What the panel is called.
        color: Of the curve.
    """

    fpr: Rates
    tpr: Rates
    low: Rates
    high: Rates
    members: int
    non_members: int
    name: str = ""
    color: str = COLORS["sample"]


def curve(
    fpr: ArrayLike,
    tpr: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    members: int,
    non_members: int,
    name: str = "",
    color: str = COLORS["sample"],
) -> Curve:
    """Returns the curve of rates that were computed elsewhere.

    Raises:
        ValueError: If the arrays differ in length, are no rates, do not grow, or the TPR leaves
            its band; if there are no members or no non-members.
    """
    rates = [np.asarray(values, np.float64) for values in (fpr, tpr, low, high)]
    lengths = [values.shape for values in rates]
    if len(set(lengths)) != 1 or rates[0].ndim != 1 or not len(rates[0]):
        raise ValueError(f"fpr, tpr, low and high have shapes {lengths}, expected one length")
    if not all(((values >= 0) & (values <= 1)).all() for values in rates):
        raise ValueError("fpr, tpr, low and high hold values outside 0..1, expected rates")
    if any((np.diff(values) < 0).any() for values in rates[:2]):
        raise ValueError("fpr or tpr fall along the curve, expected thresholds from high to low")
    if (rates[2] > rates[1] + 1e-9).any() or (rates[1] > rates[3] + 1e-9).any():
        raise ValueError("tpr lies outside low..high, expected a band around it")
    if min(members, non_members) < 1:
        raise ValueError(
            f"there are {members} members and {non_members} non-members, expected one of each"
        )
    return Curve(rates[0], rates[1], rates[2], rates[3], members, non_members, name, color)


def curve_of(
    scores: Sequence[float],
    inside: Sequence[bool],
    *,
    alpha: float = 0.05,
    name: str = "",
    color: str = COLORS["sample"],
) -> Curve:
    """Returns the curve of scores, higher = more member-like, with pointwise limits.

    At each threshold the members above it are binomial, and Clopper and Pearson's (1934) limits of
    their share are the band. It holds for one threshold at a time, and for independent scores.

    Args:
        scores: One per record.
        inside: Whether the record was trained on.
        alpha: Failure probability at each point.
        name: What the panel is called.
        color: Of the curve.

    Raises:
        ValueError: If the lengths differ, a score is NaN, alpha is outside (0, 1), or members or
            non-members are missing.
    """
    values, member = np.asarray(scores, np.float64), np.asarray(inside, np.bool_)
    if values.shape != member.shape or values.ndim != 1:
        raise ValueError(
            f"scores have shape {values.shape} and inside {member.shape}, expected one length"
        )
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} scores are NaN, expected numbers")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, expected a probability between 0 and 1")
    n_in, n_out = int(member.sum()), int((~member).sum())
    thresholds = np.unique(values)[::-1]
    above_in = n_in - np.searchsorted(np.sort(values[member]), thresholds)
    above_out = n_out - np.searchsorted(np.sort(values[~member]), thresholds)
    hits, alarms = np.append(0, above_in), np.append(0, above_out)
    low, high = _clopper_pearson(hits, n_in, alpha)
    return curve(
        alarms / max(n_out, 1),
        hits / max(n_in, 1),
        low,
        high,
        members=n_in,
        non_members=n_out,
        name=name,
        color=color,
    )


def curves_of(held: Sequence[Pool]) -> list[Curve]:
    """Returns the curve of each arm: canaries inserted once against held-out ones, by exposure.

    Arms that lack either have none.
    """
    several = len({pool.task for pool in held}) > 1
    return [
        curve_of(
            [*pool.once, *pool.held_out],
            [True] * len(pool.once) + [False] * len(pool.held_out),
            name=_titled(pool, several),
            color=COLORS[pool.clip],
        )
        for pool in held
        if pool.once and pool.held_out
    ]


def roc_figure(curves: Sequence[Curve]) -> Figure:
    """Returns a panel per curve on log-log axes: the curve, its band, and the diagonal.

    The dotted line is the smallest false positive rate that the non-members resolve, one of them;
    left of it, at the mark 0, stands what is reached without any.

    Raises:
        ValueError: If there are no curves.
    """
    if not curves:
        raise ValueError("there are no curves, expected at least one with members and non-members")
    figure, found = grid(len(curves))
    floors = (
        BELOW / max(drawn.non_members for drawn in curves),
        BELOW / max(drawn.members for drawn in curves),
    )
    for axes, drawn in zip(found, curves, strict=True):
        _panel(axes, drawn, *floors)
        axes.set_title(drawn.name, fontsize=8)
    figure.legend(handles=_keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    edge_labels(figure, found, "false positive rate", "true positive rate")
    settle(figure)
    return figure


def _clopper_pearson(hits: NDArray[np.int64], n: int, alpha: float) -> tuple[Rates, Rates]:
    """Returns the limits of a share, alpha / 2 on either side; all of 0..1 for n = 0."""
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, betaincinv(hits.clip(1), n - hits + 1, alpha / 2), 0.0)
        high = np.where(hits < n, betaincinv(hits + 1, (n - hits).clip(1), 1 - alpha / 2), 1.0)
    return np.asarray(low), np.asarray(high)


def _panel(axes: Axes, drawn: Curve, left: float, bottom: float) -> None:
    """Draws one curve; 0 stands at `left` and `bottom`, where a logarithm has no place for it."""
    # Of the points with one false positive rate the last has all the true positives.
    last = np.append(np.diff(drawn.fpr) > 0, True)
    fpr = drawn.fpr[last].clip(left)
    tpr, low, high = (rates[last].clip(bottom) for rates in (drawn.tpr, drawn.low, drawn.high))
    axes.fill_between(fpr, low, high, step="post", color=drawn.color, alpha=0.2, lw=0)
    axes.plot(fpr, tpr, drawstyle="steps-post", color=drawn.color, lw=1.4, label="curve")
    start = min(left, bottom)
    axes.plot([start, 1.0], [start, 1.0], label="diagonal", **NULL_STYLE)
    axes.axvline(1 / drawn.non_members, label="resolved", **MARK)
    axes.set(xscale="log", yscale="log", xlim=(left, 1.0), ylim=(bottom, 1.15))
    for axis, floor in ((axes.xaxis, left), (axes.yaxis, bottom)):
        axis.set_major_locator(FixedLocator([floor, *_decades(floor)]))
        axis.set_major_formatter(FuncFormatter(partial(_told, floor)))
        axis.set_minor_locator(NullLocator())


def _decades(floor: float) -> list[float]:
    """Returns 1, 0.1, ... as far as they stand clear of the mark 0."""
    return [10.0**-power for power in range(12) if 10.0**-power > 1.6 * floor]


def _told(floor: float, rate: float, _: object) -> str:
    return "0" if rate <= floor * 1.01 else f"{rate:g}"


def _keys() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color="black", lw=1.4, label="true positive rate"),
        Patch(color="#777777", alpha=0.3, label="95 % at each threshold"),
        Line2D([], [], label="guessing", **NULL_STYLE),
        Line2D([], [], label="one false positive", **MARK),
    ]


def _titled(pool: Pool, several: bool) -> str:
    name = f"{pool.task}: {pool.name}" if several else pool.name
    told = "" if math.isnan(pool.auc.mean) else f", AUC {pool.auc}"
    return f"{name}\n{len(pool.once)} in, {len(pool.held_out)} out{told}"
