from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from reports.drawing import canvas
from reports.intervals import NULL_EXPOSURE
from reports.labels import Label, label_ends
from reports.pools import pools
from reports.repetition_figure import exposure_by_repetition
from reports.rows import Row
from reports.table import exposure_of, lines, summarize

Make = Callable[..., Any]


def texts(axes: Axes) -> set[str]:
    return {found.get_text() for found in axes.texts}


def bars(axes: Axes, which: int) -> list[tuple[float, float]]:
    """Returns the ends of the error bars of an arm, tier by tier."""
    _, _, (segments,) = axes.containers[which]  # type: ignore[misc]
    return [(float(low[1]), float(high[1])) for low, high in segments.get_segments()]


def test_repetitions_are_a_line_per_arm_with_its_name_at_the_end(sweep: list[Row]) -> None:
    frame = summarize(sweep)
    (axes,) = exposure_by_repetition(frame).axes
    assert len(axes.containers) == len(frame)
    assert set(frame["arm"]) | {"null 1.44", "ceiling 9.97"} == texts(axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1x", "2x", "4x", "8x", "16x"]


def test_null_and_ceiling_are_lines(sweep: list[Row]) -> None:
    (axes,) = exposure_by_repetition(summarize(sweep)).axes
    levels = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]  # type: ignore[index, arg-type]
    assert {NULL_EXPOSURE, 9.97} <= set(levels)
    assert axes.get_ylim()[1] > 9.97


def test_without_a_ceiling_there_is_no_line_for_it(row: Make) -> None:
    (axes,) = exposure_by_repetition(summarize([row(exp_ceiling=None)])).axes
    assert texts(axes) == {"no clipping", "null 1.44"}


def test_bars_are_the_summarys_intervals(sweep: list[Row]) -> None:
    frame = summarize(sweep)
    (axes,) = exposure_by_repetition(frame).axes
    for which, line in enumerate(lines(frame)):
        expected = [exposure_of(line, tier) for tier in (1, 2, 4, 8, 16)]
        found = bars(axes, which)
        assert [low for low, _ in found] == pytest.approx([each.low for each in expected])
        assert [high for _, high in found] == pytest.approx([each.high for each in expected])


def test_one_seed_takes_the_intervals_of_its_canaries(row: Make, canaries: Make) -> None:
    one = row(exp_high=6.4, exp_2=4.5, exp_4=None, exp_8=None, exp_16=None)
    frame = summarize([one])
    (bare,) = exposure_by_repetition(frame).axes
    assert bars(bare, 0) == [(pytest.approx(4.2), pytest.approx(6.4)), (4.5, 4.5)]
    (pool,) = pools([one], [canaries(twice=[4.0, 4.5, 5.0])])
    (axes,) = exposure_by_repetition(frame, {("digits", "no clipping"): pool}).axes
    low, high = bars(axes, 0)[1]
    assert (low, high) == (pytest.approx(pool.means[2].low), pytest.approx(pool.means[2].high))
    assert high - low == pytest.approx(2 * 4.302653 * np.std([4, 4.5, 5], ddof=1) / 3**0.5)


def test_unmeasured_tiers_are_no_points(row: Make) -> None:
    (axes,) = exposure_by_repetition(summarize([row(exp_2=None, exp_8=None)])).axes
    (line, _, _) = axes.containers[0]  # type: ignore[misc]
    assert list(line.get_ydata()) == [5.05, 6.7, 8.29]


def test_names_at_the_end_stand_apart(sweep: list[Row]) -> None:
    frame = summarize(sweep)
    figure = exposure_by_repetition(frame)
    named = [found for found in figure.axes[0].texts if found.get_text() in set(frame["arm"])]
    heights = sorted(found.get_position()[1] for found in named)
    assert min(b - a for a, b in pairwise(heights)) > 0.044
    assert heights[0] >= 0.0
    assert heights[-1] <= 1.0
    # Each stands as near to its line's end as the others let it.
    to_axes = figure.axes[0].transData + figure.axes[0].transAxes.inverted()
    ends = [float(to_axes.transform(found.xy)[1]) for found in named]
    moved = [abs(found.get_position()[1] - y) for found, y in zip(named, ends, strict=True)]
    assert max(moved) < 0.2
    assert min(moved) < 0.01


def test_names_at_one_height_pile_up_within_the_axes() -> None:
    _, (axes,) = canvas(1)
    axes.set(xlim=(0.0, 1.0), ylim=(0.0, 10.0))
    for height in (0.0, 10.0):
        label_ends(axes, [Label(1.0, height, f"{height} {i}", "black") for i in range(10)])
        placed = sorted(
            t.get_position()[1] for t in axes.texts if t.get_text().startswith(f"{height} ")
        )
        assert placed[0] == pytest.approx(0.0 if height == 0 else 1.0 - 9 * 0.045)
        assert min(b - a for a, b in pairwise(placed)) > 0.044
