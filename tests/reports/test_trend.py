from typing import Any

import pytest

from reports.trend import size_clause, trends


def line(clip: str, size: int, mean: float, half: float = 0.1, **changes: Any) -> dict[str, Any]:
    bounds = {"exposure_low": mean - half, "exposure_high": mean + half}
    rule = {"clip": clip, "mb": size, "weighting": "clip", "C": 0.1}
    return rule | {"exposure": mean} | bounds | changes


@pytest.mark.parametrize(
    ("means", "direction"),
    [
        ((1.5, 2.5, 5.0), "rises"),
        ((5.0, 2.5, 1.5), "falls"),
        ((1.5, 5.0, 2.5), "mixed"),
        ((1.5, 1.6, 1.55), "unclear"),
        ((1.5, 1.6, 2.0), "rises"),
    ],
)
def test_the_direction_is_what_disjoint_intervals_agree_on(
    means: tuple[float, ...], direction: str
) -> None:
    held = [line("sample", 1, means[0])]
    held += [line("microbatch", 4, means[1]), line("microbatch", 16, means[2])]
    (trend,) = trends(held[::-1])
    assert trend.direction == direction
    assert (trend.first["clip"], trend.last["mb"]) == ("sample", 16)


def test_fewer_cores_are_larger_groups() -> None:
    (trend,) = trends([line("core", 2, 5.0), line("core", 8, 2.0)])
    assert trend.direction == "rises"
    assert size_clause([line("core", 2, 5.0), line("core", 8, 2.0)]) == (
        "1x exposure rises with the group size for core C=0.1 (core 8 2.00, core 2 5.00)"
    )


def test_rules_are_not_mixed_and_need_two_sizes() -> None:
    held = [line("sample", 1, 1.5), line("microbatch", 4, 5.0, C=1.0), line("core", 8, 3.0)]
    assert trends(held) == []
    assert size_clause(held) == ""


def test_one_seed_without_interval_says_nothing() -> None:
    unknown = {"exposure_low": float("nan"), "exposure_high": float("nan")}
    held = [line("sample", 1, 1.0, **unknown), line("microbatch", 4, 9.0, **unknown)]
    assert size_clause(held).startswith("no change of 1x exposure with the group size can be")


def test_rules_that_differ_are_told_apart() -> None:
    held = [line("sample", 1, 1.5), line("microbatch", 4, 5.0)]
    held += [line("sample", 1, 2.0, C=1.0), line("microbatch", 4, 2.1, C=1.0)]
    assert size_clause(held) == (
        "1x exposure rises with the group size for C=0.1 (sample 1.50, microbatch 4 5.00), and "
        "no change of 1x exposure with the group size can be claimed for "
        "C=1 (sample 2.00, microbatch 4 2.10)"
    )
