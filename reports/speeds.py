"""Canaries that differ in their speed: exposure and errors of each arm, speed by speed."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reports.arms import Arm, arm_name, arm_of
from reports.intervals import Interval, over_seeds
from reports.pools import is_inserted, spread
from reports.rows import TIERS, Row, number, text

_FAMILY = re.compile(r"speed(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Speeds:
    """What one arm shows at each speed.

    Attributes:
        name: The arm in words.
        task: What was trained.
        clip: The granularity, which decides the colour.
        seeds: How many runs were pooled.
        exposure: Times inserted -> speed -> mean exposure in bits.
        errors_in: Speed -> mean error rate of the canaries that were inserted.
        errors_out: Speed -> mean error rate of the references, which were not.
    """

    name: str
    task: str
    clip: str
    seeds: int
    exposure: dict[int, dict[float, Interval]]
    errors_in: dict[float, Interval]
    errors_out: dict[float, Interval]


def speed_of(family: str) -> float | None:
    """Returns the speed of a canary family named speed1, speed2.5 and so on, None for others."""
    found = _FAMILY.fullmatch(family)
    return float(found[1]) if found else None


def by_speed(rows: Sequence[Row], canaries: Sequence[Sequence[Row]]) -> list[Speeds]:
    """Returns the arms whose canaries have two speeds or more, in the order of the summary.

    Intervals are 95 %: Student's over seeds; with one seed, over its canaries.

    Args:
        rows: One flat dict per run.
        canaries: For each row its canaries, each a flat dict with family, repetitions, inserted and
            exposure, and error and error_held_out where transcripts were compared.
    """
    held: dict[Arm, list[tuple[Row, Sequence[Row]]]] = {}
    for row, table in zip(rows, canaries, strict=True):
        if len({speed_of(text(canary, "family")) for canary in table} - {None}) > 1:
            held.setdefault(arm_of(row), []).append((row, table))
    return [_speeds(held[arm]) for arm in sorted(held, key=lambda arm: arm.order)]


def _speeds(held: Sequence[tuple[Row, Sequence[Row]]]) -> Speeds:
    tables = [table for _, table in held]
    row = held[0][0]

    def told(
        column: str, wanted: Callable[[Row], bool], most: float = math.nan
    ) -> dict[float, Interval]:
        means = _means(tables, column, wanted)
        return {speed: mean.within(0.0, most) for speed, mean in means.items()}

    ceilings = {number(row, "exp_ceiling") for row, _ in held}
    ceiling = ceilings.pop() if len(ceilings) == 1 else math.nan
    tiers = {tier: told("exposure", _in_tier(tier), ceiling) for tier in TIERS}
    return Speeds(
        name=arm_name(row),
        task=text(row, "task"),
        clip=arm_of(row).clip,
        seeds=len(held),
        exposure={tier: means for tier, means in tiers.items() if means},
        errors_in=told("error", is_inserted),
        errors_out=told("error_held_out", lambda _: True),
    )


def _in_tier(tier: int) -> Callable[[Row], bool]:
    return lambda canary: is_inserted(canary) and number(canary, "repetitions") == tier


def _means(
    tables: Sequence[Sequence[Row]], column: str, wanted: Callable[[Row], bool]
) -> dict[float, Interval]:
    """Returns speed -> mean of a column over the canaries that are wanted."""
    values: dict[float, list[list[float]]] = {}
    for table in tables:
        mine: dict[float, list[float]] = {}
        for canary in table:
            speed, value = speed_of(text(canary, "family")), number(canary, column)
            if speed is not None and wanted(canary) and np.isfinite(value):
                mine.setdefault(speed, []).append(value)
        for speed, found in mine.items():
            values.setdefault(speed, []).append(found)
    return {speed: _mean(values[speed]) for speed in sorted(values)}


def _mean(seeds: Sequence[Sequence[float]]) -> Interval:
    if len(seeds) == 1:
        return spread(seeds[0])
    return over_seeds([float(np.mean(values)) for values in seeds])
