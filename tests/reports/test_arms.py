from typing import Any

import pytest

from reports.arms import COLORS, GRANULARITIES, arm_name, arm_of, run_name, shared_settings

SAMPLE = {"task": "digits", "clip": "sample", "weighting": "clip", "C": 1.0, "mb": 1, "seed": 0}
MICRO = SAMPLE | {"clip": "microbatch", "mb": 16, "C": 0.1}
CORE = SAMPLE | {"clip": "core", "weighting": "min", "C": None, "mb": 8}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"clip": "none", "C": 1.0, "mb": float("nan")}, "no clipping"),
        (SAMPLE, "sample C=1"),
        (MICRO, "microbatch 16 C=0.1"),
        (CORE, "core 8 min"),
        (MICRO | {"slots": "random"}, "microbatch 16 random C=0.1"),
        (MICRO | {"slots": "position"}, "microbatch 16 C=0.1"),
        (SAMPLE | {"sigma": 0.5}, "sample C=1 sigma=0.5"),
        (SAMPLE | {"weighting": "normalize"}, "sample normalize gamma=1"),
        (SAMPLE | {"weighting": "quantile", "C": 0.5}, "sample quantile q=0.5"),
        (SAMPLE | {"weighting": "uniform"}, "sample uniform"),
        (
            MICRO
            | {"clip": "cluster", "mb": 64, "slots": "per", "weighting": "scarcity", "C": 3.0},
            "cluster 64 per scarcity L=3",
        ),
        (SAMPLE | {"pacing": "angle:1.1:512"}, "sample C=1 angle:1.1:512"),
        ({"clip": "none", "pacing": "angle:1.1"}, "no clipping angle:1.1"),
        (SAMPLE | {"pacing": "none"}, "sample C=1"),
    ],
)
def test_an_arm_is_named_by_what_it_clips_and_how(row: dict[str, Any], expected: str) -> None:
    assert arm_name(row) == expected


@pytest.mark.parametrize(
    ("changes", "constant", "expected"),
    [
        ({"sigma": 1.0}, {"C"}, "sample s1 seed0"),
        ({"clip": "none", "weighting": "none"}, set(), "none seed0"),
        ({}, set(), "sample C1 seed0"),
        (MICRO | {"sigma": 0.5}, set(), "mb16 C0.1 s0.5 seed0"),
        (MICRO | {"sigma": 0.5, "seed": 12}, set(), "mb16 C.1 s.5 seed12"),
        (MICRO | {"mb": 128, "sigma": 0.5, "seed": 12}, set(), "mb128 C.1 s.5 seed12"),
        (CORE | {"mb": 16, "sigma": 0.25, "seed": 123}, set(), "core16 min s.25 #123"),
    ],
)
def test_a_run_is_named_by_what_varies(
    changes: dict[str, Any], constant: set[str], expected: str
) -> None:
    name = run_name(SAMPLE | changes, constant)
    assert name == expected
    assert len(name) <= 20


def test_a_shortened_name_keeps_the_seed() -> None:
    row = MICRO | {"weighting": "quantile", "mb": 128, "C": 0.123456, "sigma": 0.25, "seed": 123}
    assert run_name(row).endswith(" #123")
    assert run_name(row) != run_name(row | {"seed": 124})


def test_settings_that_all_clipped_runs_share_need_no_name() -> None:
    none = {"clip": "none", "seed": 0}
    assert shared_settings([none, SAMPLE, SAMPLE | {"seed": 1}]) == {"weighting", "C", "sigma"}
    assert shared_settings([none, SAMPLE, MICRO]) == {"weighting", "sigma"}
    assert shared_settings([SAMPLE, SAMPLE | {"sigma": 1.0}]) == {"weighting", "C"}


@pytest.mark.parametrize(
    ("row", "family"),
    [
        ({"clip": "none"}, "none"),
        (SAMPLE, "fixed"),
        (SAMPLE | {"weighting": "normalize"}, "fixed"),
        (CORE, "adaptive"),
        (CORE | {"sigma": 0.1}, "noise"),
    ],
)
def test_the_family_is_fixed_adaptive_or_noise(row: dict[str, Any], family: str) -> None:
    assert arm_of(row).family == family


def test_slots_make_another_arm() -> None:
    assert arm_of(MICRO | {"slots": "random"}) != arm_of(MICRO | {"slots": "position"})


def test_an_unknown_granularity_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="clip is 'batch', expected one of none, sample"):
        arm_of({"clip": "batch"})


def test_every_granularity_has_its_own_colour() -> None:
    assert set(COLORS) == set(GRANULARITIES)
    assert len(set(COLORS.values())) == len(GRANULARITIES)
