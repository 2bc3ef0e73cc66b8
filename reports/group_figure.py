"""The picture of group size: exposure against how many records share a clipped gradient."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.arms import COLORS, Arm, arm_of
from reports.drawing import DASHES, MARKERS, NULL_STYLE, bars, legend, settle
from reports.intervals import CONFIDENCE, NULL_EXPOSURE, Interval, effective, null_range
from reports.labels import Label, label_ends
from reports.pools import Pool
from reports.rows import Row, text
from reports.table import exposure_of, lines

SAMPLES, CORES, CLUSTERS = "samples in a group", "cores", "clusters"
APART = 0.3  # octaves over which the rules of one size are spread
_LINE = "#888888"
Band = tuple[float, float]


@dataclass(frozen=True)
class Sizes:
    """The arms of one rule, from small groups to large ones.

    Attributes:
        task: What was trained.
        axis: What their size counts.
        rule: How groups are weighed, in words.
        arms: The lines of the summary, each with its size.
    """

    task: str
    axis: str
    rule: str
    arms: tuple[tuple[int, Row], ...]


def sizes(frame: pd.DataFrame) -> list[Sizes]:
    """Returns the rules that were run at two group sizes or more; a sample is a group of one."""
    held = [(arm_of(line), line) for line in lines(frame)]
    known = [(a, line) for a, line in held if not math.isnan(exposure_of(line).mean)]
    grouped: dict[tuple[str, ...], list[tuple[int, Row]]] = {}
    for arm, line in known:
        if arm.clip not in ("none", "sample") and arm.size:
            grouped.setdefault(_rule(arm), []).append((arm.size, line))
    for (task, axis, _, rule), members in grouped.items():
        alike = [(1, x) for a, x in known if (a.clip, a.task, a.rule) == ("sample", task, rule)]
        members[:0] = alike if axis == SAMPLES else []
    return [
        Sizes(task, axis, f"{rule} {slots}".strip(), tuple(_by_size(members, axis)))
        for (task, axis, slots, rule), members in grouped.items()
        if len(members) > 1
    ]


def null_bands(held: Sequence[Pool]) -> dict[str, Band]:
    """Returns for each task where the mean exposure of an arm lies with 95 % if nothing is learnt.

    For as many canaries as were inserted once, of the arm that has fewest.
    """
    bands: dict[str, Band] = {}
    for task in dict.fromkeys(pool.task for pool in held):
        counts = [_canaries(pool) for pool in held if pool.task == task and pool.once]
        if counts:
            fewest, references = min(counts)
            bands[task] = null_range(fewest, 1 - CONFIDENCE, references)
    return bands


def exposure_by_group(frame: pd.DataFrame, bands: Mapping[str, Band]) -> Figure:
    """Returns 1x exposure against group size, a line per rule, a panel per kind of size.

    Groups grow to the right: with more samples, and with fewer cores. Bars are 95 % intervals.

    Args:
        frame: The summary.
        bands: (low, high) of the null for each task (`null_bands`); none is drawn for the others.

    Raises:
        ValueError: If no rule was run at two sizes.
    """
    found = sizes(frame)
    if not found:
        raise ValueError("no rule was run at two group sizes, expected at least one such rule")
    panels = list(dict.fromkeys((rule.task, rule.axis) for rule in found))
    figure = Figure(figsize=(5.4 * len(panels), 4.2), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    every[0, 0].set_ylabel("exposure of canaries inserted once (bits)")
    drawn = []
    for axes, (task, axis) in zip(every.flat, panels, strict=True):
        mine = [rule for rule in found if (rule.task, rule.axis) == (task, axis)]
        base = [line for line in lines(frame) if _is_plain(line, task)]
        drawn.append((axes, _panel(axes, mine, base, bands.get(task))))
        axes.set_title(task if len({task for task, _ in panels}) > 1 else "", fontsize=10)
    every[0, 0].set_ylim(bottom=0.0)
    for axes, ends in drawn:
        label_ends(axes, ends)
    legend(figure, [line for rule in found for _, line in rule.arms])
    settle(figure)
    return figure


def _rule(arm: Arm) -> tuple[str, ...]:
    by_count = {"core": CORES, "cluster": CLUSTERS}
    axis = SAMPLES if arm.slots == "per" else by_count.get(arm.clip, SAMPLES)
    slots = f"{arm.clip} {arm.slots}" if arm.clip == "cluster" else arm.slots
    return arm.task, axis, slots, arm.rule


def _by_size(members: Sequence[tuple[int, Row]], axis: str) -> list[tuple[int, Row]]:
    return sorted(members, key=lambda one: one[0] if axis == SAMPLES else -one[0])


def _canaries(pool: Pool) -> tuple[float, float]:
    """Returns as how many independent canaries those of an arm count, and among how many.

    Each family of a run has references of its own, so with n_f of n canaries in family f the
    variance of their mean is var (1/n + sum of (n_f / n)^2 / N).
    """
    references = math.nan if pool.references is None else pool.references
    held = len(pool.once) / pool.seeds
    return pool.seeds * effective(held, references / pool.shared), references


def _is_plain(line: Row, task: str) -> bool:
    return text(line, "clip") == "none" and text(line, "task") == task


def _panel(
    axes: Axes, rules: Sequence[Sizes], base: Sequence[Row], band: Band | None
) -> list[Label]:
    """Draws one panel and returns the names of its lines at their ends."""
    ends = []
    for index, rule in enumerate(rules):
        shift = 2 ** (APART * ((index + 0.5) / len(rules) - 0.5))
        xs = [size * shift for size, _ in rule.arms]
        means = [exposure_of(line) for _, line in rule.arms]
        dashes = DASHES[arm_of(rule.arms[-1][1]).family]
        axes.plot(xs, [m.mean for m in means], color=_LINE, ls=dashes, lw=1.1, label=rule.rule)
        for x, mean, (_, line) in zip(xs, means, rule.arms, strict=True):
            _point(axes, x, mean, arm_of(line))
        ends.append(Label(xs[-1], means[-1].mean, rule.rule, "#333333"))
    return [*ends, *_levels(axes, base, band, _size_axis(axes, rules))]


def _point(axes: Axes, x: float, mean: Interval, arm: Arm) -> None:
    axes.errorbar(
        [x],
        [mean.mean],
        yerr=bars(mean, missing=0.0),
        fmt=MARKERS[arm.family],
        color=COLORS[arm.clip],
        ms=5.5,
        elinewidth=0.9,
        mec="white",
        mew=0.5,
        zorder=3,
    )


def _size_axis(axes: Axes, rules: Sequence[Sizes]) -> float:
    """Names the sizes that occur and returns the one at the right."""
    present = sorted({size for rule in rules for size, _ in rule.arms})
    axes.set_xscale("log", base=2)
    axes.set_xticks(present, [str(size) for size in present])
    axes.minorticks_off()
    axes.tick_params(labelsize=8, labelleft=True)
    axes.spines[["top", "right"]].set_visible(False)
    axis = rules[0].axis
    if axis != SAMPLES:
        axes.invert_xaxis()
    axes.set_xlabel(axis if axis == SAMPLES else f"{axis} (larger groups to the right)")
    return float(present[-1] if axis == SAMPLES else present[0])


def _levels(axes: Axes, base: Sequence[Row], band: Band | None, right: float) -> list[Label]:
    """Draws the null with its band, and unclipped training; returns their names."""
    found = [Label(right, NULL_EXPOSURE, f"null {NULL_EXPOSURE:.2f}", "#666666")]
    axes.axhline(NULL_EXPOSURE, **NULL_STYLE)
    if band:
        axes.axhspan(*band, color="#999999", alpha=0.25, lw=0, zorder=0, label="null band")
    for line in base:
        mean = exposure_of(line)
        axes.axhline(mean.mean, color=COLORS["none"], lw=1.1, zorder=1)
        if mean.known:
            axes.axhspan(mean.low, mean.high, color=COLORS["none"], alpha=0.1, lw=0, zorder=0)
        found.append(Label(right, mean.mean, "no clipping", COLORS["none"]))
    return found
