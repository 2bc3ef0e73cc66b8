"""Pictures of single canaries: their exposures beside the law of one never trained on."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports.arms import COLORS
from reports.drawing import NULL_STYLE, canvas, edge_labels, grid, settle
from reports.intervals import Interval, null_mean
from reports.null_law import null_shares
from reports.pools import Pool, spread

FINE_FROM = 200  # canaries with which bins of half a bit are not mostly noise
HATCHED: dict[str, Any] = {"fc": "none", "ec": "#555555", "hatch": "////", "lw": 0.6}


def exposure_histogram(
    exposures: Sequence[float],
    ceiling: float = math.nan,
    held_out: Sequence[float] = (),
    references: int | None = None,
    interval: Interval | None = None,
    color: str = COLORS["sample"],
) -> Figure:
    """Returns the exposures of inserted canaries, held-out ones beside them, and the null's law.

    The null is drawn in the same bins: what a canary that was never trained on falls into them
    with. The key says how many canaries there are, and their mean with its 95 % interval.

    Args:
        exposures: One value per inserted canary, in bits.
        ceiling: The largest exposure that could be measured, log2 of (references + 1); NaN where
            it is not recorded.
        held_out: The exposures of canaries that were not inserted, none where there are none.
        references: N, how many references each canary was ranked among; None for the limit.
        interval: Mean and interval of the inserted canaries; None for Student's over them.
        color: Of the inserted canaries.

    Raises:
        ValueError: If there are no exposures, or some are not finite.
    """
    mine, others = _finite(exposures, "inserted"), _finite(held_out, "held-out")
    if not len(mine):
        raise ValueError("there are no exposures, expected one per inserted canary")
    figure, (axes,) = canvas(1)
    edges = _edges([*mine, *others], ceiling, len(mine))
    _histogram(axes, edges, mine, others, references, color)
    _ceiling(axes, ceiling)
    told = interval or spread(mine.tolist(), ceiling)
    keys = [_count_key("inserted", mine, told, color)]
    if len(others):
        keys.append(_count_key("held out", others, spread(others.tolist(), ceiling), None))
    keys.append(_null_key(references))
    figure.legend(handles=keys, loc="outside upper center", frameon=False, fontsize=8)
    edge_labels(figure, [axes], "exposure (bits)", "density (per bit)")
    settle(figure)
    return figure


def exposure_histograms(held: Sequence[Pool]) -> Figure:
    """Returns a panel per arm: canaries inserted once, held-out ones, and the null's law.

    Raises:
        ValueError: If no arm has a canary that was inserted once, or exposures are not finite.
    """
    drawn = [pool for pool in held if pool.once]
    if not drawn:
        raise ValueError("no arm has a canary that was inserted once, expected at least one")
    figure, found = grid(len(drawn))
    every = [bits for pool in drawn for bits in (*pool.once, *pool.held_out)]
    _finite(every, "pooled")
    ceilings = [pool.ceiling for pool in drawn if math.isfinite(pool.ceiling)]
    edges = _edges(every, max(ceilings, default=math.nan), min(len(pool.once) for pool in drawn))
    tasks = {pool.task for pool in drawn}
    for axes, pool in zip(found, drawn, strict=True):
        mine, others = np.asarray(pool.once), np.asarray(pool.held_out)
        _histogram(axes, edges, mine, others, pool.references, COLORS[pool.clip])
        _ceiling(axes, pool.ceiling)
        axes.set_title(_titled(pool, len(tasks) > 1), fontsize=8)
    keys = [Patch(color="#777777", alpha=0.55, label="inserted once")]
    if any(pool.held_out for pool in drawn):
        keys.append(_held_out_patch("held out"))
    references = {pool.references for pool in drawn}
    null = _null_key(references.pop() if len(references) == 1 else None)
    figure.legend(
        handles=[*keys, null], loc="outside upper center", ncols=3, frameon=False, fontsize=8
    )
    edge_labels(figure, found, "exposure (bits)", "density (per bit)")
    settle(figure)
    return figure


def _finite(values: Sequence[float], which: str) -> np.ndarray:
    found = np.asarray(values, np.float64)
    wrong = int((~np.isfinite(found)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {len(found)} exposures of {which} canaries are not finite, expected bits; "
            "look for scores that are NaN"
        )
    return found


def _edges(values: Sequence[float], ceiling: float, canaries: int) -> np.ndarray:
    """Returns bins of about one bit, half a bit for many canaries, up to the ceiling."""
    top = ceiling if math.isfinite(ceiling) else math.ceil(max(values))
    top = max(top, 1.0)
    count = round(top * (2 if canaries >= FINE_FROM else 1))
    return np.linspace(0.0, top, max(4, count) + 1)


def _histogram(
    axes: Axes,
    edges: np.ndarray,
    mine: np.ndarray,
    others: np.ndarray,
    references: int | None,
    color: str,
) -> None:
    """Draws inserted canaries filled, held-out ones hatched, and the null as a black outline."""
    filled: dict[str, Any] = {"fill": True, "color": color, "alpha": 0.55, "zorder": 2}
    axes.stairs(_density(mine, edges), edges, label="inserted", **filled)
    if len(others):
        axes.stairs(_density(others, edges), edges, label="held out", fill=True, **HATCHED)
    null = null_shares(edges, references) / np.diff(edges)
    axes.stairs(null, edges, label="null", color="black", lw=1.5, zorder=3)
    axes.set_xlim(0.0, edges[-1] * 1.04)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    return np.asarray(counts / (len(values) * np.diff(edges)))


def _ceiling(axes: Axes, ceiling: float) -> None:
    if not math.isfinite(ceiling):
        return
    axes.axvline(ceiling, **NULL_STYLE)
    axes.annotate(
        f"ceiling {ceiling:.1f}",
        (ceiling, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=7,
        color="#666666",
    )


def _count_key(who: str, values: np.ndarray, told: Interval, color: str | None) -> Artist:
    label = f"{who}: n = {len(values)}, mean {told}"
    return Patch(color=color, alpha=0.55, label=label) if color else _held_out_patch(label)


def _held_out_patch(label: str) -> Patch:
    return Patch(label=label, **HATCHED)


def _null_key(references: int | None) -> Line2D:
    among = "" if references is None else f" among {references:,} references"
    mean = null_mean(math.nan if references is None else references)
    return Line2D([], [], color="black", lw=1.5, label=f"null{among}: mean {mean:.2f}")


def _titled(pool: Pool, several: bool) -> str:
    name = f"{pool.task}: {pool.name}" if several else pool.name
    return f"{name}\nn = {len(pool.once)}, mean {pool.means[1]}"
