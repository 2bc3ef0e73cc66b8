import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from reports.pools import pools
from reports.roc_figure import curve, curve_of, curves_of, roc_figure

Make = Callable[..., Any]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}
SCORES = [4.0, 3.0, 3.0, 2.0, 1.0, 3.0, 2.0, 0.0, 0.0, -1.0]
INSIDE = [True] * 5 + [False] * 5


def line(axes: Axes, label: str) -> Any:
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


def test_the_curve_counts_at_every_threshold() -> None:
    found = curve_of(SCORES, INSIDE, alpha=0.1)
    thresholds = [math.inf, *sorted(set(SCORES), reverse=True)]
    assert len(found.fpr) == len(thresholds)
    for k, threshold in enumerate(thresholds):
        above = [score >= threshold for score in SCORES]
        hits = sum(a and i for a, i in zip(above, INSIDE, strict=True))
        alarms = sum(a and not i for a, i in zip(above, INSIDE, strict=True))
        assert (found.tpr[k], found.fpr[k]) == (hits / 5, alarms / 5)
        limits = stats.binomtest(hits, 5).proportion_ci(0.9, method="exact")
        assert found.low[k] == pytest.approx(limits.low)
        assert found.high[k] == pytest.approx(limits.high)
    assert (found.members, found.non_members) == (5, 5)


def test_scores_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ValueError, match="1 scores are NaN"):
        curve_of([1.0, math.nan], [True, False])
    with pytest.raises(ValueError, match="there are 2 members and 0 non-members"):
        curve_of([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="there are 0 members and 1 non-members"):
        curve_of([1.0], [False])
    with pytest.raises(ValueError, match=r"shape \(2,\) and inside \(1,\)"):
        curve_of([1.0, 2.0], [True])
    with pytest.raises(ValueError, match=r"alpha is 0\.0"):
        curve_of([1.0, 2.0], [True, False], alpha=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fpr": [0.0, 1.0]}, "expected one length"),
        ({"fpr": [0.0, 0.6, 0.5]}, "fall along the curve"),
        ({"tpr": [0.0, 0.5, math.nan]}, r"outside 0\.\.1"),
        ({"high": [0.5, 0.7, 1.2]}, r"outside 0\.\.1"),
        ({"low": [0.0, 0.6, 0.9]}, "expected a band around it"),
        ({"members": 0}, "0 members"),
    ],
)
def test_arrays_that_are_no_curve_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"fpr": [0.0, 0.5, 1.0], "tpr": [0.0, 0.5, 1.0]}
    good |= {"low": [0.0, 0.2, 0.9], "high": [0.5, 0.7, 1.0], "members": 9, "non_members": 4}
    assert curve(**good).fpr.tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=message):
        curve(**(good | change))


def test_the_picture_shows_curve_band_diagonal_and_what_is_resolved() -> None:
    drawn = curve_of(SCORES, INSIDE, name="ours")
    (axes,) = roc_figure([drawn]).axes
    assert axes.get_title() == "ours"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    # Without a false positive 4.0 alone is above; with one of five, three; and so on.
    floor = axes.get_xlim()[0]
    assert line(axes, "curve").get_xdata() == pytest.approx([floor, 0.2, 0.4, 0.8, 1.0])
    assert line(axes, "curve").get_ydata() == pytest.approx([0.2, 0.6, 1.0, 1.0, 1.0])
    assert line(axes, "curve").get_drawstyle() == "steps-post"
    assert line(axes, "resolved").get_xdata() == [0.2, 0.2]
    assert list(line(axes, "diagonal").get_xdata()) == list(line(axes, "diagonal").get_ydata())
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    limits = stats.binomtest(1, 5).proportion_ci(0.95, method="exact")
    assert {round(limits.high, 6)} <= set(np.round(heights, 6).tolist())


def test_0_stands_left_of_the_smallest_rate_and_is_called_0() -> None:
    figure = roc_figure([curve_of(SCORES, INSIDE)])
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_xlim()[0] == pytest.approx(0.4 / 5)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]
    many = curve_of([*range(1000)], [False] * 800 + [True] * 200)
    figure = roc_figure([many])
    figure.canvas.draw()
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert sorted(labels, key=float) == ["0", "0.001", "0.01", "0.1", "1"]


def test_a_useless_attack_that_never_hits_is_drawn_at_0() -> None:
    (axes,) = roc_figure([curve_of([0.0, 0.0, 1.0], [True, True, False])]).axes
    assert line(axes, "curve").get_ydata().tolist() == [axes.get_ylim()[0], 1.0]


def test_ties_are_passed_together() -> None:
    found = curve_of([1.0] * 6, [True] * 3 + [False] * 3)
    assert (found.fpr.tolist(), found.tpr.tolist()) == ([0.0, 1.0], [0.0, 1.0])


def test_arms_have_a_panel_each_with_counts_and_auc(row: Make, canaries: Make) -> None:
    rows = [row(auc_low=0.7, auc_high=0.9), row(**SAMPLE), row(**SAMPLE, seed=1)]
    held = pools(rows, [canaries(), canaries([1.0], []), canaries([], [2.0])])
    figure = roc_figure(curves_of(held))
    assert [axes.get_title() for axes in figure.axes] == [
        "no clipping\n2 in, 3 out, AUC 0.81 [0.70, 0.90]",
        "sample C=0.1\n1 in, 1 out, AUC 0.81 [0.81, 0.81]",
    ]
    assert line(figure.axes[0], "resolved").get_xdata() == pytest.approx([1 / 3, 1 / 3])


def test_arms_without_held_out_canaries_have_no_curve(row: Make, canaries: Make) -> None:
    assert curves_of(pools([row()], [canaries(held_out=[])])) == []
    with pytest.raises(ValueError, match="there are no curves"):
        roc_figure([])
