import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from reports.arms import COLORS
from reports.exposure_figures import exposure_histogram, exposure_histograms
from reports.intervals import Interval
from reports.pools import pools

Make = Callable[..., Any]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}
CEILING = math.log2(1001)


def steps(axes: Axes, label: str) -> StepPatch | None:
    found = [patch for patch in axes.patches if patch.get_label() == label]
    assert all(isinstance(patch, StepPatch) for patch in found)
    return found[0] if found else None  # type: ignore[return-value]


def keys(figure: Figure) -> list[str]:
    return [found.get_text() for found in figure.legends[0].get_texts()]


def texts(axes: Axes) -> list[str]:
    return [found.get_text() for found in axes.texts]


def test_canaries_and_null_share_their_bins() -> None:
    mine, others = [0.4, 5.2, 5.4, 9.9], [0.2, 0.3, 1.5, 2.5, 3.5]
    (axes,) = exposure_histogram(mine, CEILING, others, 1000).axes
    for label, values in (("inserted", mine), ("held out", others)):
        drawn = steps(axes, label)
        assert drawn is not None
        heights, edges, _ = drawn.get_data()
        counts = [sum(low <= bits < high for bits in values) for low, high in pairwise(edges)]
        assert heights * np.diff(edges) * len(values) == pytest.approx(counts)
    null = steps(axes, "null")
    assert null is not None
    heights, edges, _ = null.get_data()
    exposures = [math.log2(1001 / rank) for rank in range(1, 1002)]
    for k, (low, high) in enumerate(pairwise(edges)):
        last = k == len(heights) - 1
        ranks = sum(low <= bits < high or (last and bits == high) for bits in exposures)
        assert heights[k] * (high - low) * 1001 == pytest.approx(ranks, abs=1.01)
    assert (heights * np.diff(edges)).sum() == pytest.approx(1.0)


def test_without_a_number_of_references_the_null_is_the_limit() -> None:
    figure = exposure_histogram([0.5, 1.0, 9.9, 30.0], ceiling=10.0)
    (axes,) = figure.axes
    null = steps(axes, "null")
    assert null is not None
    heights, edges, _ = null.get_data()
    assert heights == pytest.approx((2.0 ** -edges[:-1] - 2.0 ** -edges[1:]) / np.diff(edges))
    assert keys(figure)[-1] == "null: mean 1.44"


def test_the_key_tells_counts_means_and_intervals() -> None:
    told = Interval(5.05, 4.2, 5.9)
    figure = exposure_histogram([5.0, 5.1], CEILING, [1.0, 2.0, 3.0], 1000, told)
    assert keys(figure) == [
        "inserted: n = 2, mean 5.05 [4.20, 5.90]",
        "held out: n = 3, mean 2.00 [0.00, 4.48]",
        "null among 1,000 references: mean 1.44",
    ]
    assert "ceiling 10.0" in texts(figure.axes[0])
    assert any(list(line.get_xdata()) == [CEILING] * 2 for line in figure.axes[0].lines)


def test_one_canary_without_held_out_ones_has_no_interval() -> None:
    figure = exposure_histogram([3.0], CEILING)
    assert keys(figure)[0] == "inserted: n = 1, mean 3.00"
    assert len(keys(figure)) == 2
    assert steps(figure.axes[0], "held out") is None


def test_equal_exposures_have_no_interval_and_lie_in_one_bin() -> None:
    figure = exposure_histogram([CEILING] * 5, CEILING, [0.0, 0.0], 1000)
    assert keys(figure)[:2] == ["inserted: n = 5, mean 9.97", "held out: n = 2, mean 0.00"]
    drawn = steps(figure.axes[0], "inserted")
    assert drawn is not None
    heights, edges, _ = drawn.get_data()
    assert np.flatnonzero(heights).tolist() == [len(heights) - 1]
    assert heights[-1] * (edges[-1] - edges[-2]) == pytest.approx(1.0)


@pytest.mark.parametrize("ceiling", [math.nan, math.inf])
def test_an_unknown_ceiling_is_no_line(ceiling: float) -> None:
    (axes,) = exposure_histogram([0.5, 3.0], ceiling).axes
    assert not axes.lines
    assert not texts(axes)
    assert axes.get_xlim()[1] > 3.0


def test_what_is_no_exposure_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no exposures"):
        exposure_histogram([], CEILING)
    with pytest.raises(ValueError, match="1 of 2 exposures of inserted canaries are not finite"):
        exposure_histogram([1.0, math.nan], CEILING)
    with pytest.raises(ValueError, match="1 of 1 exposures of held-out canaries are not finite"):
        exposure_histogram([1.0], CEILING, [math.inf])


def test_every_arm_has_a_panel_in_its_colour(row: Make, canaries: Make) -> None:
    rows = [row(exp_ceiling=CEILING), row(**SAMPLE, exp_ceiling=CEILING, exposure=1.5)]
    figure = exposure_histograms(pools(rows, [canaries(), canaries([1.0, 2.0], [])]))
    plain, sample = figure.axes
    assert plain.get_title() == "no clipping\nn = 2, mean 5.05 [4.20, 5.90]"
    assert sample.get_title() == "sample C=0.1\nn = 2, mean 1.50 [4.20, 5.90]"
    for axes, color in ((plain, "none"), (sample, "sample")):
        drawn = steps(axes, "inserted")
        assert drawn is not None
        assert to_hex(drawn.get_facecolor()).upper() == COLORS[color]
    assert steps(plain, "held out") is not None
    assert steps(sample, "held out") is None
    assert keys(figure) == [
        *("inserted once", "held out", "null among 1,000 references: mean 1.44"),
    ]


def test_arms_without_canaries_inserted_once_have_no_panel(row: Make, canaries: Make) -> None:
    held = pools([row(), row(**SAMPLE)], [canaries([], [1.0], [3.0]), canaries()])
    assert [axes.get_title().split("\n")[0] for axes in exposure_histograms(held).axes] == [
        "sample C=0.1"
    ]
    with pytest.raises(ValueError, match="no arm has a canary that was inserted once"):
        exposure_histograms(held[:1])


def test_panels_of_several_tasks_name_them(row: Make, canaries: Make) -> None:
    rows = [row(), row(task="text", acc=None, ppl=8.5)]
    figure = exposure_histograms(pools(rows, [canaries(), canaries()]))
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["digits", "text"]
