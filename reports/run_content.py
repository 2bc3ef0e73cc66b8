"""What MLflow is told of a run: its params, headline metrics, points, tags and description."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from reports.arms import COLORS, arm_name, arm_of
from reports.claims import bound_text, claims_epsilon, guarantee_text, verdict_text
from reports.intervals import NULL_EXPOSURE
from reports.rows import TIER_COLUMNS, UTILITIES, Row, number, plain, text, utility_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param

Series: TypeAlias = Mapping[str, Sequence[tuple[int, float]]]

PARAMS = (
    *("clip", "weighting", "C", "sigma", "mb", "world", "q", "steps", "lr", "delta", "seed"),
    *("model", "canaries", "slots", "pacing"),
)
METRICS = (
    *(utility.column for utility in UTILITIES),
    *("exposure", "exp_low", "exp_high", "exp_error", *TIER_COLUMNS[1:]),
    *("norm_pct", "auc", "auc_low", "auc_high", "coin_p"),
    *("before_p", "eps_lb", "eps_lb_ceiling", "eps", "clipfrac", "ex_per_s", "peak_mb"),
)
SHORTER = {"eps_lb_ceiling": "eps_ceil"}  # columns too wide for MLflow's table
FACTS = frozenset({"unit", "accountant", "sampling", "rng"})
TAG_LIMIT = 8000  # characters per tag that MLflow accepts
ARM_TAG = "dpclip.arm"
KIND_TAG = "dpclip.kind"
COLOR_TAG = "mlflow.runColor"


def params(row: Row) -> "list[Param]":
    """Returns the settings that vary or identify, of those that the run has."""
    from mlflow.entities import Param

    held = {key: plain(row.get(key), key) for key in PARAMS}
    return [
        Param(key, _word(value))
        for key, value in held.items()
        if value == value and value is not None
    ]


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def headline(row: Row, at: float | None = None) -> "list[Metric]":
    """Returns the headline metrics at four significant digits; what is not finite is left out.

    Args:
        row: The run's flat dict.
        at: When they were measured, in Unix seconds; now if not given.
    """
    values = {key: number(row, key) for key in METRICS}
    return [
        metric(SHORTER.get(key, key), float(f"{v:.4g}"), 0, at)
        for key, v in values.items()
        if math.isfinite(v)
    ]


def points(series: Series, at: float | None = None) -> "list[Metric]":
    """Returns the points of all series; values that are not finite are left out.

    Raises:
        ValueError: If steps do not grow from 1.
    """
    for name, held in series.items():
        steps = [0, *(step for step, _ in held)]
        wrong = next((b for a, b in pairwise(steps) if b <= a), None)
        if wrong is not None:
            raise ValueError(out_of_order(name, wrong))
    return [
        metric(name, value, step, at)
        for name, held in series.items()
        for step, value in held
        if math.isfinite(value)
    ]


def out_of_order(name: str, step: int) -> str:
    """Returns what is wrong with a step that comes after itself or a later one."""
    return (
        f"series {name!r} has step {step} out of order, expected growing steps from 1; "
        "after a resume, start behind the last step that was logged"
    )


def metric(key: str, value: float, step: int, at: float | None = None) -> "Metric":
    """Returns one point; `at` in Unix seconds, now if not given."""
    from mlflow.entities import Metric

    return Metric(key, float(value), int((time.time() if at is None else at) * 1000), step)


def tags(row: Row, kind: str, sweep_id: str | None) -> dict[str, str]:
    """Returns what is claimed and found, the colour of the granularity, and the description."""
    parent = {"mlflow.parentRunId": sweep_id} if sweep_id else {}
    return {
        KIND_TAG: kind,
        ARM_TAG: arm_name(row),
        "dpclip.guarantee": guarantee_text(row)[:TAG_LIMIT],
        "dpclip.verdict": text(row, "verdict", missing="not-claimed"),
        "dpclip.bound": bound_text(row),
        COLOR_TAG: COLORS[arm_of(row).clip],
        "mlflow.note.content": note(row)[:TAG_LIMIT],
        **parent,
    }


def fact_tags(facts: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags of facts; ValueError for a fact that is none of `FACTS`."""
    unknown = sorted(set(facts) - FACTS)
    if unknown:
        raise ValueError(
            f"fact {unknown[0]!r} is unknown, expected any of {', '.join(sorted(FACTS))}"
        )
    return {f"dpclip.{key}": value for key, value in facts.items()}


def note(row: Row) -> str:
    """Returns the run's description: the verdict, the exposure, the utility, then the guarantee."""
    utility = utility_of([row])
    said = f"{utility.label} {number(row, utility.column):.4g}" if utility else "utility: none"
    claim = f"epsilon {number(row, 'eps'):.3g}" if claims_epsilon(row) else "no epsilon is claimed"
    exposure = number(row, "exposure")
    bits = "not measured" if math.isnan(exposure) else f"{exposure:.2f} bits"
    return (
        f"**{text(row, 'verdict', missing='not-claimed')}**: {claim}  \n"
        f"1x exposure {bits} (null {NULL_EXPOSURE:.2f})  \n"
        f"{said}  \n"
        f"\nVerdict: {verdict_text(row)}. Lower bound by the audit: {bound_text(row)}.\n"
        f"\nGuarantee: {guarantee_text(row)}\n"
    )
