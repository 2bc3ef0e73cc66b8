import math
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.bound_figure import bound_against_claim, bounded

Make = Callable[..., Any]
NOISE = {"clip": "sample", "weighting": "clip", "C": 1.0, "sigma": 1.0, "mb": 1}
CLAIM = NOISE | {"eps": 2.0, "eps_lb": 0.5, "eps_lb_ceiling": 5.8, "eps_lb_by": "records"}


def drawn(axes: Axes, label: str) -> list[tuple[float, float]]:
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))  # type: ignore[index, arg-type]
        for line in axes.lines
        if line.get_label() == label
    ]


def keys(figure: Figure) -> list[str]:
    return [found.get_text() for found in figure.legends[0].get_texts()]


def test_every_run_is_a_point_under_its_ceiling(row: Make) -> None:
    rows = [row(**CLAIM), row(**CLAIM | {"seed": 1, "eps_lb": 0.0})]
    figure = bound_against_claim(rows)
    (axes,) = figure.axes
    assert drawn(axes, "bound") == [(2.0, 0.5), (2.0, 0.0)]
    assert drawn(axes, "ceiling") == [(2.0, 5.8), (2.0, 5.8)]
    assert [found.get_text() for found in axes.texts] == ["sample C=1 sigma=1"]
    assert keys(figure) == [
        *("bound from records", "ceiling: a perfect attack", "contradicts the claim"),
    ]


def test_the_axes_are_logarithmic_and_have_a_place_for_0(row: Make) -> None:
    figure = bound_against_claim([row(**CLAIM | {"eps_lb": 0.0})])
    figure.canvas.draw()
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "symlog")
    assert axes.get_ylim()[0] == 0.0
    assert axes.get_ylim()[1] > 5.8
    assert next(label.get_text() for label in axes.get_yticklabels()) == "0"
    assert "2" in [label.get_text() for label in axes.get_xticklabels()]
    pixels = axes.transData.transform([(2.0, y) for y in (0.0, 0.1, 1.0, 10.0)])[:, 1]
    assert pixels[3] - pixels[2] == pytest.approx(pixels[2] - pixels[1], rel=0.05)


def test_a_tiny_bound_stands_clear_of_0(row: Make) -> None:
    (axes,) = bound_against_claim([row(**CLAIM | {"eps_lb": 0.002})]).axes
    zero, tiny = axes.transData.transform([(2.0, 0.0), (2.0, 0.002)])[:, 1]
    assert tiny - zero > 0.05 * axes.get_window_extent().height


def test_the_diagonal_is_where_bound_and_claim_are_equal(row: Make) -> None:
    (axes,) = bound_against_claim([row(**CLAIM)]).axes
    (line,) = [one for one in axes.lines if one.get_label() == "diagonal"]
    assert list(line.get_xdata()) == list(line.get_ydata())
    assert min(line.get_xdata()) < 2.0 < max(line.get_xdata())
    assert axes.get_ylim()[1] > min(line.get_xdata())


def test_a_claim_above_the_ceiling_is_hollow(row: Make) -> None:
    rows = [row(**CLAIM | {"eps": eps, "sigma": s}) for eps, s in ((2.0, 1.0), (5.8, 2.0))]
    figure = bound_against_claim([*rows, row(**CLAIM | {"eps": 9.0, "sigma": 0.5})])
    faces = {
        float(line.get_xdata()[0]): line.get_markerfacecolor()  # type: ignore[index, arg-type]
        for line in figure.axes[0].lines
        if line.get_label() == "bound"
    }
    assert {eps: face == "white" for eps, face in faces.items()} == {2.0: False, 5.8: True, 9: True}
    assert "claim above the ceiling" in keys(figure)


def test_arms_that_claim_nothing_have_a_panel_of_their_own(row: Make) -> None:
    silent = [row(seed=s, eps_lb=b) for s, b in ((0, 0.0), (1, 1.5))]
    core = row(clip="core", weighting="min", mb=8, eps_lb=0.3, eps_lb_ceiling=4.0)
    figure = bound_against_claim([*silent, core, row(**CLAIM)])
    claims, others = figure.axes
    assert drawn(claims, "bound") == [(2.0, 0.5)]
    assert others.get_title() == "no epsilon is claimed"
    assert [y for _, y in drawn(others, "bound")] == [0.0, 1.5, 0.3]
    assert [round(x) for x, _ in drawn(others, "bound")] == [0, 0, 1]
    assert drawn(others, "ceiling") == [(1.0, 4.0)]
    names = [label.get_text() for label in others.get_xticklabels()]
    assert names == ["no clipping", "core 8 min"]
    assert claims.get_ylim() == others.get_ylim()


def test_without_any_claim_there_is_no_diagonal(row: Make) -> None:
    figure = bound_against_claim([row(eps_lb=0.4, eps_lb_by="records")])
    (axes,) = figure.axes
    assert not [one for one in axes.lines if one.get_label() == "diagonal"]
    assert keys(figure) == ["bound from records", "ceiling: not recorded"]


def test_sources_have_their_markers_and_an_unknown_one_is_told(row: Make) -> None:
    sources = ("records", "gradient canaries", None)
    rows = [row(**CLAIM | {"seed": s, "eps_lb_by": by}) for s, by in enumerate(sources)]
    figure = bound_against_claim(rows)
    markers = [o.get_marker() for o in figure.axes[0].lines if o.get_label() == "bound"]
    assert markers == ["o", "D", "o"]
    assert keys(figure)[:3] == [
        *("bound from records", "bound from gradient canaries", "bound, source not recorded"),
    ]


def test_runs_without_a_bound_are_not_drawn(row: Make) -> None:
    rows = [row(**CLAIM), row(**CLAIM | {"seed": 1, "eps_lb": math.nan})]
    rows += [row(**CLAIM | {"seed": 2, "eps_lb": None}), {"task": "digits", "clip": "none"}]
    assert len(bounded(rows)) == 1
    assert len(drawn(bound_against_claim(rows).axes[0], "bound")) == 1
    with pytest.raises(ValueError, match="no run has a lower bound on epsilon"):
        bound_against_claim(rows[1:])


def test_a_huge_claim_does_not_squeeze_the_bounds(row: Make) -> None:
    rows = [row(**CLAIM), row(**CLAIM | {"eps": 6132.3, "sigma": 0.1})]
    (axes,) = bound_against_claim(rows).axes
    assert axes.get_xlim()[1] > 6132
    assert axes.get_ylim()[1] < 20


def test_two_tasks_are_told_apart(row: Make) -> None:
    rows = [row(**CLAIM), row(**CLAIM | {"task": "text", "eps": 4.0})]
    (axes,) = bound_against_claim(rows).axes
    assert {found.get_text().split(":")[0] for found in axes.texts} == {"digits", "text"}
