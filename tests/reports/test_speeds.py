"""Exposure and errors of each arm by the speed of its canaries."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from reports.pictures import gallery
from reports.rows import Row
from reports.speed_figure import errors_by_speed, exposure_by_speed
from reports.speeds import by_speed, speed_of

Make = Callable[..., Any]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}


def table(shift: float = 0.0, speeds: tuple[str, ...] = ("1", "2.5", "4")) -> list[dict[str, Any]]:
    """Two canaries inserted once, one 16x and one held out at each speed."""
    rows = []
    for place, speed in enumerate(speeds):
        for times, bits, inside in (
            (1, 2.0, True),
            (1, 4.0, True),
            (16, 9.0, True),
            (1, 1.0, False),
        ):
            rows.append(
                {
                    "id": f"{speed} {len(rows)}",
                    "family": f"speed{speed}",
                    "repetitions": times,
                    "inserted": inside,
                    "exposure": bits + place + shift if inside else bits,
                    "error": 0.1 * place if inside else 0.9,
                    "error_held_out": 0.2 * (place + 1) + shift / 10,
                }
            )
    return rows


def test_families_named_by_their_speed_have_one() -> None:
    assert speed_of("speed1") == 1.0
    assert speed_of("speed2.5") == 2.5
    assert speed_of("noise") is None
    assert speed_of("speedy") is None


def test_means_by_speed_over_canaries_of_one_seed(row: Make) -> None:
    (found,) = by_speed([row()], [table()])
    assert list(found.exposure) == [1, 16]
    assert {s: m.mean for s, m in found.exposure[1].items()} == {1.0: 3.0, 2.5: 4.0, 4.0: 5.0}
    assert {s: m.mean for s, m in found.exposure[16].items()} == {1.0: 9.0, 2.5: 10.0, 4.0: 11.0}
    # Student over the canaries 2 and 4: 3 +- 12.7 * 1.41 / 1.41, and no exposure is beyond these.
    assert (found.exposure[1][1.0].low, found.exposure[1][1.0].high) == (0.0, 9.97)
    assert not found.exposure[16][1.0].known
    assert [m.mean for m in found.errors_in.values()] == pytest.approx([0.0, 0.1, 0.2])
    assert [m.mean for m in found.errors_out.values()] == pytest.approx([0.2, 0.4, 0.6])


def test_intervals_are_over_seeds_where_there_are_several(row: Make) -> None:
    rows = [row(seed=seed) for seed in range(3)]
    (found,) = by_speed(rows, [table(shift) for shift in (-1.0, 0.0, 1.0)])
    once = found.exposure[1][2.5]
    assert (once.mean, found.seeds) == (4.0, 3)
    assert once.high - once.mean == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert found.errors_out[1.0].known


def test_arms_stay_apart_and_those_of_one_speed_are_left_out(row: Make) -> None:
    rows = [row(), row(**SAMPLE), row(clip="core", weighting="min", mb=8)]
    found = by_speed(rows, [table(), table(1.0), table(speeds=("1",))])
    assert [arm.clip for arm in found] == ["none", "sample"]
    assert found[1].exposure[1][1.0].mean == 4.0


def test_the_figures_show_every_point(row: Make) -> None:
    held = by_speed([row(), row(**SAMPLE)], [table(), table(1.0)])
    figure = exposure_by_speed(held, 9.97)
    assert [axes.get_title() for axes in figure.axes] == ["no clipping", "sample C=0.1"]
    drawn = [np.asarray(it.lines[0].get_xydata()) for it in figure.axes[0].containers]
    assert [line[:, 1].tolist() for line in drawn] == [[3.0, 4.0, 5.0], [9.0, 10.0, 11.0]]
    for line in drawn:
        np.testing.assert_allclose(line[:, 0], [1.0, 2.5, 4.0], rtol=0.05)
    assert (drawn[0][:, 0] < drawn[1][:, 0]).all(), "the bars of two lines cover each other"
    (axes,) = errors_by_speed(held).axes
    heights = [np.asarray(it.lines[0].get_ydata()).tolist() for it in axes.containers]
    assert heights[0] == pytest.approx([0.2, 0.4, 0.6])
    assert heights[1] == pytest.approx([0.0, 0.1, 0.2])
    assert len(heights) == 4


def test_a_sweep_of_several_speeds_has_two_pictures_more(sweep: list[Row]) -> None:
    names = [plate.name for plate in gallery(sweep, [table() for _ in sweep]).plates]
    assert names == [
        *("repetition.png", "groups.png", "speed.png", "errors.png", "exposure.png", "roc.png"),
        "bound.png",
    ]
    bare = [[{k: v for k, v in c.items() if "error" not in k} for c in table()] for _ in sweep]
    names = [plate.name for plate in gallery(sweep, bare).plates]
    assert "speed.png" in names
    assert "errors.png" not in names


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no arms with canaries of several speeds"):
        exposure_by_speed([], math.nan)
    with pytest.raises(ValueError, match="no arm has error rates"):
        errors_by_speed([])
