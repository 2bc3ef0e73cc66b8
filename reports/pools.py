"""The canaries of an arm, those of its seeds together: what pictures of an audit are made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.arms import Arm, arm_name, arm_of
from reports.intervals import Interval, over_seeds
from reports.rows import TIERS, Row, Scalar, number, text
from reports.table import exposure_of, lines, summarize


@dataclass(frozen=True)
class Pool:
    """Exposures of the canaries of one arm, in bits.

    Attributes:
        name: The arm in words.
        task: What was trained.
        clip: The granularity, which decides the colour.
        seeds: How many runs were pooled.
        tiers: Times inserted -> the exposures of canaries inserted so often.
        held_out: Exposures of canaries that were not inserted.
        means: Times inserted -> the mean with its 95 % interval.
        ceiling: The largest exposure that could have come out; NaN if not recorded.
        references: How many references each canary was ranked among; None where that is not one
            number for all, or not recorded.
        auc: AUC of telling canaries inserted once from held-out ones; its interval with one run.
        shared: Chance that two of the canaries inserted once are of one family, and so were ranked
            among the same references: 1 for one family, 1 / F for F families of the same size.
    """

    name: str
    task: str
    clip: str
    seeds: int
    tiers: dict[int, tuple[float, ...]]
    held_out: tuple[float, ...]
    means: dict[int, Interval]
    ceiling: float
    references: int | None
    auc: Interval
    shared: float = 1.0

    @property
    def once(self) -> tuple[float, ...]:
        """Exposures of the canaries that were inserted once."""
        return self.tiers.get(1, ())


def pools(rows: Sequence[Row], canaries: Sequence[Sequence[Row]]) -> list[Pool]:
    """Returns one pool per arm that has canaries, in the order of the summary.

    Args:
        rows: One flat dict per run.
        canaries: For each row its canaries, each a flat dict with repetitions, inserted and
            exposure; an empty one for a run without.

    Raises:
        ValueError: If rows and tables do not match in number, or a canary lacks a column.
    """
    if len(rows) != len(canaries):
        raise ValueError(
            f"there are {len(rows)} rows and {len(canaries)} tables of canaries, expected one "
            "table for each row, empty for a run without canaries"
        )
    held: dict[Arm, list[tuple[Row, Sequence[Row]]]] = {}
    for row, table in zip(rows, canaries, strict=True):
        if len(table):
            held.setdefault(arm_of(row), []).append((row, table))
    return [_pool(held[arm]) for arm in sorted(held, key=lambda arm: arm.order)]


def spread(values: Sequence[float], ceiling: float = math.nan) -> Interval:
    """Returns the mean over canaries with Student's 95 % interval between 0 and the ceiling.

    There are no bounds for one canary, nor where all are equal: no spread tells nothing about how
    far the mean of others may be.
    """
    found = over_seeds(values)
    if len(values) > 1 and max(values) == min(values):
        return Interval(found.mean, math.nan, math.nan)
    return found.within(0.0, ceiling)


def _pool(held: Sequence[tuple[Row, Sequence[Row]]]) -> Pool:
    rows = [row for row, _ in held]
    members = [canary for _, table in held for canary in table]
    tiers = {tier: _bits(members, tier) for tier in TIERS}
    (line,) = lines(summarize(rows))
    ceiling = number(line, "exp_ceiling")
    return Pool(
        name=arm_name(rows[0]),
        task=text(rows[0], "task"),
        clip=arm_of(rows[0]).clip,
        seeds=len(rows),
        tiers={tier: bits for tier, bits in tiers.items() if bits},
        held_out=_bits(members, None),
        means={tier: _mean(line, tier, bits, ceiling) for tier, bits in tiers.items() if bits},
        ceiling=ceiling,
        references=_references(rows, ceiling),
        auc=_auc(rows),
        shared=_shared(members),
    )


def _shared(members: Sequence[Row]) -> float:
    once = [text(c, "family") for c in members if is_inserted(c) and _times(c) == 1]
    return sum((once.count(name) / len(once)) ** 2 for name in set(once)) if once else 1.0


def _auc(rows: Sequence[Row]) -> Interval:
    if len(rows) == 1:
        return Interval(*(number(rows[0], name) for name in ("auc", "auc_low", "auc_high")))
    return over_seeds([number(row, "auc") for row in rows]).within(0.0, 1.0)


def _bits(members: Sequence[Row], tier: int | None) -> tuple[float, ...]:
    """Returns the exposures of a tier, of the canaries that were held out for None."""
    chosen = (
        canary
        for canary in members
        if (
            not is_inserted(canary)
            if tier is None
            else is_inserted(canary) and _times(canary) == tier
        )
    )
    return tuple(number(canary, "exposure") for canary in chosen)


def is_inserted(canary: Row) -> bool:
    """Returns whether a canary was trained on.

    Raises:
        ValueError: If the column `inserted` holds anything but a truth value.
    """
    value: Scalar | np.bool_ = canary.get("inserted")
    if isinstance(value, bool | np.bool_ | int) and value in (0, 1):
        return bool(value)
    raise ValueError(
        f"canary {canary.get('id')!r} has inserted {value!r}, expected True or False; "
        "a text such as 'False' would count as true, so convert it first"
    )


def _times(canary: Row) -> int:
    times = number(canary, "repetitions")
    if not times >= 1:
        raise ValueError(
            f"canary {canary.get('id')!r} has repetitions {canary.get('repetitions')!r}, "
            "expected how often it was inserted, at least 1"
        )
    return int(times)


def _mean(line: Row, tier: int, bits: Sequence[float], ceiling: float) -> Interval:
    """Returns the summary's mean and interval, over canaries where the summary has no interval."""
    told = exposure_of(line, tier)
    return told if told.known else spread(bits, ceiling)


def _references(rows: Sequence[Row], ceiling: float) -> int | None:
    """Returns N where ceiling and references agree on it, so that the null has one exact law.

    A ceiling is log2(N + 1) among N references, log2(|R|) in a space R where each filling is
    ranked among the |R| - 1 others. Families of several sizes agree with neither.
    """
    counts = {number(row, "references") for row in rows}
    if len(counts) != 1 or not math.isfinite(ceiling):
        return None
    ranks = round(2**ceiling)
    agrees = abs(math.log2(ranks) - ceiling) < 1e-6 and counts & {ranks, ranks - 1}
    return ranks - 1 if agrees and ranks > 1 else None
