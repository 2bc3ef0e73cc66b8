"""Runs of the same seeds under several arms, and how far arms are apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from reports import Row, arm_name
from reports.arms import arm_of
from reports.intervals import Interval, over_seeds
from reports.rows import number

Runs = Mapping[str, Sequence[Row]]
"""Name of an arm -> its runs, one for each seed."""

_LIMITS = {"acc": (0.0, 1.0), "auc": (0.0, 1.0)}  # what intervals cannot leave


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the runs of each arm by its name, in the order of the other tables.

    Raises:
        ValueError: an arm has two runs of one seed.
    """
    held: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: arm_of(row).order):
        held.setdefault(arm_name(row), []).append(row)
    for name, runs in held.items():
        seeds = [number(run, "seed") for run in runs]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"{name} has {len(seeds)} runs of {len(set(seeds))} seeds: expected one run for "
                "each. Stores that hold the same arm do not belong together."
            )
    return held


def mean(runs: Sequence[Row], measure: str) -> Interval:
    """Returns the mean of a column over seeds."""
    found = over_seeds([number(run, measure) for run in runs])
    return found.within(*_LIMITS.get(measure, (-math.inf, math.inf)))


def difference(runs: Sequence[Row], baseline: Sequence[Row], measure: str) -> Interval:
    """Returns the mean over seeds of the difference to the baseline's run of the same seed.

    Raises:
        ValueError: they have not the same seeds.
    """
    mine, theirs = (
        {number(row, "seed"): number(row, measure) for row in held} for held in (runs, baseline)
    )
    if mine.keys() != theirs.keys():
        raise ValueError(
            f"{arm_name(runs[0])} has the seeds {_listed(mine)}, {arm_name(baseline[0])} has "
            f"{_listed(theirs)}: expected the same. Run the missing ones."
        )
    return over_seeds([mine[seed] - theirs[seed] for seed in mine])


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:g}" for n in sorted(numbers))
