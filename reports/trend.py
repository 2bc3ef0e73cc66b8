"""Whether exposure rises with the group, for every rule that was run at two sizes or more."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.arms import arm_of
from reports.rows import Row
from reports.table import exposure_of

RISES, FALLS, MIXED, UNCLEAR = "rises", "falls", "mixed", "unclear"


@dataclass(frozen=True)
class Trend:
    """How exposure goes from the smallest group to the largest under one rule."""

    rule: str
    direction: str
    first: Row
    last: Row

    def __str__(self) -> str:
        ends = ", ".join(
            f"{arm_of(line).grouping} {exposure_of(line).mean:.2f}"
            for line in (self.first, self.last)
        )
        return f"{self.rule} ({ends})"


def trends(held: Sequence[Row]) -> list[Trend]:
    """Returns a trend per rule; per sample counts as micro-batches of one, cores stand apart."""
    series: dict[tuple[bool, str], list[Row]] = {}
    for line in held:
        arm = arm_of(line)
        series.setdefault((arm.clip == "core", arm.rule), []).append(line)
    return [
        _trend(f"core {rule}" if cores else rule, members)
        for (cores, rule), members in series.items()
        if len(members) > 1
    ]


def size_clause(held: Sequence[Row]) -> str:
    """Returns what may be said about group size; empty where no rule was run at two sizes."""
    found = trends(held)
    sayings = {
        RISES: "1x exposure rises with the group size for {}",
        FALLS: "1x exposure falls with the group size for {}",
        MIXED: "1x exposure changes with the group size, in no single direction, for {}",
        UNCLEAR: "no change of 1x exposure with the group size can be claimed for {}",
    }
    grouped = {way: [str(t) for t in found if t.direction == way] for way in sayings}
    return ", and ".join(
        saying.format(" and ".join(grouped[way])) for way, saying in sayings.items() if grouped[way]
    )


def _trend(rule: str, members: Sequence[Row]) -> Trend:
    ordered = sorted(members, key=lambda line: arm_of(line).group_order)
    return Trend(rule, _direction(ordered), ordered[0], ordered[-1])


def _direction(ordered: Sequence[Row]) -> str:
    """Returns the direction in which all pairs with disjoint intervals agree."""
    exposures = [exposure_of(line) for line in ordered]
    pairs = [(a, b) for i, a in enumerate(exposures) for b in exposures[i + 1 :]]
    up, down = (any(b.above(a) for a, b in pairs), any(b.below(a) for a, b in pairs))
    return {(True, False): RISES, (False, True): FALLS, (True, True): MIXED}.get(
        (up, down), UNCLEAR
    )
