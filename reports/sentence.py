"""The answer in two sentences, which claim no difference where intervals overlap."""

from collections.abc import Sequence

import pandas as pd

from reports.arms import arm_name
from reports.intervals import NULL_EXPOSURE, Interval
from reports.rows import Row, Utility, number, text, utility_named
from reports.table import exposure_of, lines, utility_interval, utility_text
from reports.trend import size_clause

NAMED = 2  # arms named in a clause before the rest is only counted


def headline(frame: pd.DataFrame) -> str:
    """Returns two sentences per task: who reduces memorization, at what cost; and group size.

    Exposures are compared by their 95 % intervals: with the null (contained or not) and with the
    unclipped arm (all below, all above, or nothing claimed).

    Raises:
        ValueError: If the frame has no lines.
    """
    if frame.empty:
        raise ValueError("the summary has no lines, expected one per arm; run at least one arm")
    tasks: dict[str, list[Row]] = {}
    for line in lines(frame):
        tasks.setdefault(text(line, "task", missing="this task"), []).append(line)
    return " ".join(_sentence(task, held) for task, held in tasks.items())


def _sentence(task: str, held: Sequence[Row]) -> str:
    base = next((line for line in held if text(line, "clip") == "none"), None)
    others = [line for line in held if text(line, "clip") != "none"]
    clauses = _compared(base, others) if base else _alone(others)
    trend = size_clause(others)
    more = "; ".join([*([trend] if trend else []), *_audited(held)])
    answer = f"On {task}, {'; '.join(clauses)}."
    return f"{answer} {more[0].upper()}{more[1:]}." if more else answer


def _audited(held: Sequence[Row]) -> list[str]:
    """Returns which claims the audit contradicts, and which it could not have contradicted."""
    wrong = [line for line in held if text(line, "verdict") == "contradicted"]
    untested = [line for line in held if text(line, "verdict") == "unresolvable"]
    clauses = []
    if wrong:
        clauses.append(f"the audit CONTRADICTS the epsilon claimed by {_claimants(wrong)}")
    if untested:
        told = "is too weak to test the epsilon claimed by"
        clauses.append(f"the audit {told} {_claimants(untested)}")
    return clauses


def _claimants(held: Sequence[Row]) -> str:
    """Returns arms with what each claims."""
    named = [f"{arm_name(line)} ({number(line, 'eps'):.3g})" for line in held[:NAMED]]
    rest = len(held) - len(named)
    return f"{', '.join(named)} and {rest} more" if rest else " and ".join(named)


def _alone(others: Sequence[Row]) -> list[str]:
    """Returns what can be said without an unclipped arm: who is at the null."""
    at_null = [line for line in others if exposure_of(line).contains(NULL_EXPOSURE)]
    found = _names(at_null) if at_null else "no arm"
    return [
        "no unclipped arm was run, so no reduction can be claimed",
        f"the 1x exposure interval contains the null of {NULL_EXPOSURE:.2f} bits for {found}",
    ]


def _compared(base: Row, others: Sequence[Row]) -> list[str]:
    exposure = exposure_of(base)
    clauses = [_unclipped(exposure)]
    if others and exposure.low > NULL_EXPOSURE:
        clauses.append(_reduction(base, others))
    raised = [line for line in others if exposure_of(line).above(exposure)]
    if raised:
        verb = "raises" if len(raised) == 1 else "raise"
        clauses.append(f"{_names(raised)} {verb} the exposure")
    return clauses


def _unclipped(exposure: Interval) -> str:
    """Returns where the unclipped arm stands beside the null."""
    null = f"{NULL_EXPOSURE:.2f}"
    if not exposure.known:
        return (
            f"unclipped training has a 1x exposure of {exposure} bits without an interval, "
            "so no difference can be claimed"
        )
    if exposure.contains(NULL_EXPOSURE):
        return (
            "unclipped training shows no memorization of canaries seen once that can be told from "
            f"the null ({exposure} bits, null {null}), so no arm can be shown to reduce it"
        )
    if exposure.high < NULL_EXPOSURE:
        return (
            f"unclipped training lies below the null of {null} bits ({exposure}), "
            "which points to ties or unequal references rather than to privacy"
        )
    return f"unclipped training memorizes canaries seen once ({exposure} bits, null {null})"


def _reduction(base: Row, others: Sequence[Row]) -> str:
    """Returns which arm lowers the exposure, how far, and what it costs."""
    lower = [line for line in others if exposure_of(line).below(exposure_of(base))]
    at_null = [line for line in lower if exposure_of(line).contains(NULL_EXPOSURE)]
    if at_null:
        best = _best(at_null)
        brought = "brings that to where it cannot be told from the null"
        first = f"{_named(best)} {brought}, {_cost(base, best)}"
        return first if len(at_null) == 1 else f"{first}, {_chosen(best, len(at_null))}"
    if lower:
        best = min(lower, key=lambda line: exposure_of(line).mean)
        if exposure_of(best).high < NULL_EXPOSURE:
            return f"{_named(best)} lies below the null: check ties and references"
        return f"{_named(best)} lowers that, but not to the null, {_cost(base, best)}"
    return "no arm's interval lies below that, so no reduction can be claimed"


def _cost(base: Row, line: Row) -> str:
    """Returns the utility beside the unclipped one's, and a difference only where it is clear."""
    utility = utility_named(text(line, "metric"))
    if utility is None or text(base, "metric") != utility.column:
        return "(its cost in utility was not measured)"
    mine, plain = utility_interval(line), utility_interval(base)
    beside = f"at {utility.label} {utility_text(line)} against {utility_text(base)}"
    if not (mine.known and plain.known):
        return f"{beside} (too few seeds to claim a cost or none)"
    if not (mine.below(plain) or mine.above(plain)):
        return f"{beside} (intervals overlap: no cost can be claimed)"
    better = mine.above(plain) == utility.higher_is_better
    return f"{beside} ({'better' if better else 'worse'})"


def _best(held: Sequence[Row]) -> Row:
    """Returns the line with the best mean utility, the lowest exposure where there is none."""
    utility = utility_named(text(held[0], "metric"))
    if utility is None:
        return min(held, key=lambda line: exposure_of(line).mean)
    sign = 1 if utility.higher_is_better else -1
    return max(held, key=lambda line: sign * number(line, "utility"))


def _chosen(best: Row, count: int) -> str:
    """Returns how the named arm was picked, since a pick among several is favourable to it."""
    utility: Utility | None = utility_named(text(best, "metric"))
    if utility is None:
        return f"one of {count} arms that do"
    extreme = "highest" if utility.higher_is_better else "lowest"
    return f"the {extreme} mean {utility.label} of {count} arms that do"


def _named(line: Row) -> str:
    return f"{arm_name(line)} ({exposure_of(line)})"


def _names(held: Sequence[Row]) -> str:
    named = [_named(line) for line in held[:NAMED]]
    rest = len(held) - len(named)
    return " and ".join(named) if not rest else f"{', '.join(named)} and {rest} more"
