import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from reports.arms import COLORS
from reports.group_figure import exposure_by_group, null_bands, sizes
from reports.intervals import NULL_EXPOSURE, null_range
from reports.pools import pools
from reports.rows import Row
from reports.table import summarize

Make = Callable[..., Any]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}
MICRO = {"clip": "microbatch", "weighting": "clip", "C": 0.1}


def points(axes: Axes) -> list[tuple[float, float, str]]:
    """Returns x, mean and colour of each arm that is drawn."""
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    return [
        (float(p.get_xdata()[0]), float(p.get_ydata()[0]), to_hex(p.get_color()).upper())  # type: ignore[index, arg-type]
        for p, _, _ in bars
    ]


def test_rules_go_from_small_groups_to_large_ones(sweep: list[Row]) -> None:
    found = {
        (rule.axis, rule.rule): [size for size, _ in rule.arms] for rule in sizes(summarize(sweep))
    }
    assert found == {("samples in a group", "C=0.1"): [1, 4, 16], ("cores", "min"): [8, 4]}


def test_random_slots_are_a_line_of_their_own_and_start_with_the_sample(row: Make) -> None:
    rows = [
        row(**SAMPLE),
        *(row(**MICRO, mb=b, slots=s) for b in (4, 2) for s in ("random", "position")),
    ]
    found = {rule.rule: [size for size, _ in rule.arms] for rule in sizes(summarize(rows))}
    assert found == {"C=0.1": [1, 2, 4], "C=0.1 random": [1, 2, 4]}


def test_one_size_is_no_trend(row: Make) -> None:
    assert sizes(summarize([row(), row(**SAMPLE)])) == []
    assert sizes(summarize([row(**SAMPLE), row(**MICRO, mb=4, exposure=None, exp_1=None)])) == []
    with pytest.raises(ValueError, match="no rule was run at two group sizes"):
        exposure_by_group(summarize([row()]), {})


def test_points_are_the_arms_in_the_colour_of_their_granularity(sweep: list[Row]) -> None:
    frame = summarize(sweep)
    samples, cores = exposure_by_group(frame, {}).axes
    means = frame.set_index("arm")["exposure"]
    expected = [means["sample C=0.1"], means["microbatch 4 C=0.1"], means["microbatch 16 C=0.1"]]
    drawn = points(samples)
    assert [y for _, y, _ in drawn] == pytest.approx(expected)
    assert [color for _, _, color in drawn] == [COLORS["sample"], *[COLORS["microbatch"]] * 2]
    assert [y for _, y, _ in points(cores)] == pytest.approx(
        [means["core 8 min"], means["core 4 min"]]
    )
    assert [label.get_text() for label in samples.get_xticklabels()] == ["1", "4", "16"]
    assert cores.xaxis_inverted()
    assert not samples.xaxis_inverted()
    assert {"C=0.1", "no clipping", "null 1.44"} == {text.get_text() for text in samples.texts}


def test_the_null_has_its_band_and_unclipped_training_its_interval(sweep: list[Row]) -> None:
    frame = summarize(sweep)
    axes = exposure_by_group(frame, {"digits": (0.8, 2.1)}).axes[0]
    (band,) = [patch for patch in axes.patches if patch.get_label() == "null band"]
    assert band.get_extents().transformed(axes.transData.inverted()).intervaly == pytest.approx(
        [0.8, 2.1]
    )
    levels = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]  # type: ignore[index, arg-type]
    assert any(level == pytest.approx(NULL_EXPOSURE) for level in levels)
    assert any(level == pytest.approx(5.05) for level in levels)
    bare = exposure_by_group(frame, {}).axes[0]
    assert not [patch for patch in bare.patches if patch.get_label() == "null band"]


def test_the_band_covers_the_mean_of_untrained_canaries(row: Make, canaries: Make) -> None:
    """Ranks among references that canaries of a run share, in 95 % of worlds."""
    held, references, seeds = 10, 99, 3
    ceiling = math.log2(references + 1)
    told = row(references=references, exp_ceiling=ceiling)
    tables = [canaries(once=[1.0] * held) for _ in range(seeds)]
    rows = [told | {"seed": seed} for seed in range(seeds)]
    low, high = null_bands(pools(rows, tables))["digits"]
    independent = seeds / (1 / held + 1 / references)
    assert (low, high) == pytest.approx(null_range(independent, 0.05, references))
    rng = np.random.default_rng(0)
    worlds = 4000
    mine = rng.normal(size=(worlds, seeds, held, 1))
    others = rng.normal(size=(worlds, seeds, 1, references))
    ranks = 1 + (others > mine).sum(-1)
    means = (ceiling - np.log2(ranks)).mean((1, 2))
    # Four standard errors of a share of 0.95 among 4,000 are 0.014.
    assert 0.93 < np.mean((low <= means) & (means <= high)) < 0.97


def test_each_family_has_references_of_its_own(row: Make, canaries: Make) -> None:
    """The band covers the mean over four families in 95 % of worlds; that of one is wider."""
    held, references, seeds, families = 100, 99, 3, 4
    ceiling = math.log2(references + 1)
    told = row(references=references, exp_ceiling=ceiling)
    table = [
        canary | {"family": f"f{number % families}"}
        for number, canary in enumerate(canaries(once=[1.0] * held))
    ]
    rows = [told | {"seed": seed} for seed in range(seeds)]
    low, high = null_bands(pools(rows, [table] * seeds))["digits"]
    rng = np.random.default_rng(0)
    worlds = 4000
    mine = rng.normal(size=(worlds, seeds, families, held // families, 1))
    others = rng.normal(size=(worlds, seeds, families, 1, references))
    ranks = 1 + (others > mine).sum(-1)
    means = (ceiling - np.log2(ranks)).mean((1, 2, 3))
    # The band of one family covers 0.99 of these worlds.
    assert 0.93 < np.mean((low <= means) & (means <= high)) < 0.97


def test_the_band_is_that_of_the_arm_with_fewest_canaries(row: Make, canaries: Make) -> None:
    rows = [row(), row(**SAMPLE), row(task="text")]
    tables = [canaries(once=[1.0] * n) for n in (50, 5, 20)]
    bands = null_bands(pools(rows, tables))
    alone = null_bands(pools(rows[1:2], tables[1:2]))
    assert bands["digits"] == alone["digits"]
    assert bands["text"][1] < bands["digits"][1]
    assert null_bands(pools([row()], [canaries(once=[])])) == {}
