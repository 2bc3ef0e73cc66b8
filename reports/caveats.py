"""What a reader must know before believing the table: budget, null check, norms, the audit."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from reports.arms import Arm, arm_name, arm_of
from reports.audit_remarks import audit_remarks
from reports.claims import claims
from reports.intervals import (
    NULL_EXPOSURE,
    Interval,
    effective,
    null_mean,
    null_range,
    over_seeds,
)
from reports.rows import Row, number, text
from reports.table import exposure_of, lines, summarize

USUAL_BUDGET = 0.01
# A canary above this percentile of the data's gradient norms is cut by a bound that leaves nearly
# all of the data alone. Below it, the bound shrinks ordinary records as much as the canary.
CLIPPING_HELPS_ABOVE = 90.0
NULL_LEVEL = 0.05


def remarks(rows: Sequence[Row], skipped: Sequence[str] = ()) -> list[str]:
    """Returns the caveats, then what may be claimed: all that goes under the table.

    Args:
        rows: One flat dict per run.
        skipped: Combinations that were asked for and not run, each with its reason.
    """
    return [*caveats(rows, skipped), *claims(lines(summarize(rows)))]


def caveats(rows: Sequence[Row], skipped: Sequence[str] = ()) -> list[str]:
    """Returns budget, null check, reading of gradient norms, limits of the audit, what is skipped.

    With several tasks each remark starts with the name of its task.
    """
    tasks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        tasks[text(row, "task")].append(row)
    found: list[str] = []
    for task, held in tasks.items():
        start = f"{task}: " if len(tasks) > 1 else ""
        told = [*budget(held), *null_check(held), *norm_reading(held), *audit_remarks(held)]
        found += [start + remark for remark in told]
    return [*found, *(f"Skipped: {combination}" for combination in skipped)]


def budget(rows: Iterable[Row]) -> list[str]:
    """Returns a warning where canaries are more than 1 % of the training records."""
    share = max((b for row in rows if (b := number(row, "budget")) > USUAL_BUDGET), default=0.0)
    if not share:
        return []
    return [
        f"Canaries are {100 * share:.3g} % of the training records, beyond the usual 0.1-1 %: "
        "utility and exposure are those of a model trained on this mixture, and a rarer canary "
        "in more data may be memorized less."
    ]


def null_check(rows: Sequence[Row]) -> list[str]:
    """Returns whether canaries that cannot be memorized score as the null says.

    Held-out canaries after training and all canaries before it: per arm, against the exact range
    of the mean under the null, with the level shared among the arms.
    """
    return [
        *_null("exp_out", "Held-out canaries", "after training", ("n_out",), rows),
        *_null("exp_before", "All canaries", "before training", ("n_in", "n_out"), rows),
    ]


def norm_reading(rows: Sequence[Row]) -> list[str]:
    """Returns what the canaries' gradient norms predict for clipping, beside what was measured."""
    plain = [number(row, "norm_pct") for row in rows if text(row, "clip") == "none"]
    present = [value for value in plain if not math.isnan(value)]
    if not present:
        return []
    percentile = float(np.median(present))
    start = (
        "Without clipping, the median canary gradient norm lies at percentile "
        f"{percentile:.0f} of the data's"
    )
    if percentile >= CLIPPING_HELPS_ABOVE:
        reading = "large beside the data: clipping alone is expected to suppress rare canaries"
    else:
        reading = (
            "not large beside the data: clipping alone is not expected to help and may amplify "
            "rare canaries; noise is what helps"
        )
    return [f"{start}, {reading}. {_evidence(rows)}"]


def _evidence(rows: Sequence[Row]) -> str:
    """Returns the 1x exposure of the fixed clipping arms, each beside the unclipped arm's."""
    held = lines(summarize(rows))
    base = next(exposure_of(line) for line in held if text(line, "clip") == "none")
    fixed = [line for line in held if arm_of(line).family == "fixed"]
    if not fixed:
        return "No fixed clipping arm without noise was run to compare with."
    measured = (
        f"{arm_name(line)} {exposure_of(line)} ({_beside(exposure_of(line), base)})"
        for line in fixed
    )
    return f"Measured 1x exposure: no clipping {base}; {'; '.join(measured)}."


def _beside(exposure: Interval, base: Interval) -> str:
    if not (exposure.known and base.known):
        return "no interval"
    if exposure.below(base):
        return "lower"
    return "higher" if exposure.above(base) else "no difference can be claimed"


def _null(
    column: str, who: str, when: str, counts: tuple[str, ...], rows: Sequence[Row]
) -> list[str]:
    """Returns one sentence on one null check, loud where it fails; nothing where not measured."""
    arms: dict[Arm, list[Row]] = defaultdict(list)
    for row in rows:
        if not math.isnan(number(row, column)):
            arms[arm_of(row)].append(row)
    if not arms:
        return []
    checks = {
        arm_name(held[0]): _range(column, counts, held, NULL_LEVEL / len(arms))
        for held in arms.values()
    }
    known = {name: found for name, found in checks.items() if found}
    if not known:
        return [f"{who} {when}: no null check, as neither counts nor several seeds are there."]
    failed = [sentence for sentence, passed in known.values() if not passed]
    if not failed:
        return [
            f"{who} {when} lie at the null of {NULL_EXPOSURE:.2f} bits, as they must "
            f"({_count(len(known))} checked)."
        ]
    names = [name for name, (_, passed) in known.items() if not passed]
    listed = "; ".join(f"{name} {told}" for name, told in zip(names, failed, strict=True))
    return [
        f"NULL CHECK FAILED: {who.lower()} {when} are NOT at the null in {len(failed)} of "
        f"{_count(len(known))}: {listed}. Exposure of these arms means nothing until this is "
        "explained: above the null, canaries and references differ or held-out canaries leak; "
        "below it, scores tie."
    ]


def _range(
    column: str, counts: tuple[str, ...], rows: Sequence[Row], level: float
) -> tuple[str, bool] | None:
    """Returns mean and allowed range in words and whether it passed; None where nobody can say."""
    found = over_seeds([number(row, column) for row in rows])
    canaries = sum(_effective(row, counts) for row in rows)
    if math.isnan(canaries) or canaries <= 0:
        if not found.known:
            return None
        return f"{found}", found.contains(null_mean(number(rows[0], "references")))
    low, high = null_range(canaries, level, number(rows[0], "references"))
    told = f"{found.mean:.2f}, expected within [{low:.2f}, {high:.2f}]"
    return told, low <= found.mean <= high


def _effective(row: Row, counts: tuple[str, ...]) -> float:
    """Returns as how many independent canaries the run counts."""
    return effective(sum(number(row, count) for count in counts), number(row, "references"))


def _count(arms: int) -> str:
    return "1 arm" if arms == 1 else f"{arms} arms"
