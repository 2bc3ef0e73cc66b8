"""A run as one flat dict of scalars: its columns, and how a value is taken out of it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Row: TypeAlias = Mapping[str, Scalar]

TIERS = (1, 2, 4, 8, 16)
TIER_COLUMNS = tuple(f"exp_{tier}" for tier in TIERS)
SETTINGS = ("task", "clip", "weighting", "C", "sigma", "mb", "seed", "q", "steps", "lr", "delta")
RESULTS = (
    *("exposure", "exp_low", "exp_high", *TIER_COLUMNS, "norm_pct", "auc", "eps", "eps_lb"),
    *("guarantee", "verdict", "clipfrac", "ex_per_s", "peak_mb"),
)
EXTRAS = (
    *("model", "slots", "randomness", "exp_out", "exp_before", "exp_ceiling"),
    *("budget", "n_in", "n_out", "references", "searched", "extracted"),
    *("auc_low", "auc_high", "auc_before", "before_p", "coin_p", "coin_fired", "n_tests"),
    *("eps_lb_by", "eps_lb_ceiling", "eps_lb_expected"),
    *("exp_error", "exp_error_low", "exp_error_high", "error_in", "error_out"),
)
TEXTS = frozenset(
    {
        "task",
        "model",
        "clip",
        "slots",
        "pacing",
        "randomness",
        "weighting",
        "guarantee",
        "verdict",
        "eps_lb_by",
    }
)


@dataclass(frozen=True)
class Utility:
    """How well a model does its task: the column, its name in a sentence, which way is better."""

    column: str
    label: str
    higher_is_better: bool


UTILITIES = (
    Utility("acc", "accuracy", True),
    Utility("wer", "word error rate", False),
    Utility("cer", "character error rate", False),
    Utility("ppl", "perplexity", False),
    Utility("bleu", "BLEU", True),
    Utility("chrf", "chrF", True),
)


NUMBERS = frozenset({*SETTINGS, *RESULTS, *EXTRAS, *(u.column for u in UTILITIES)}) - TEXTS


def number(row: Row, column: str) -> float:
    """Returns the value of a numeric column, NaN where the run does not have it.

    Raises:
        TypeError: If the column holds something that is not a number.
    """
    value = row.get(column)
    if value is None:
        return math.nan
    if isinstance(value, Real):
        return float(value)
    raise TypeError(
        f"column {column!r} holds {value!r}, expected a number or nothing; "
        "convert it before the row is handed over"
    )


def text(row: Row, column: str, missing: str = "") -> str:
    """Returns the value of a text column, `missing` where the run does not have it."""
    value = row.get(column)
    return missing if value is None or value != value or value == "" else str(value)


def plain(value: object, column: str) -> Scalar:
    """Returns the value as Python's own scalar (NumPy's scalars print and compare differently).

    Raises:
        TypeError: If the value is no scalar.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(
        f"column {column!r} holds a {type(value).__name__}, expected a string, a number or None; "
        "a row is flat: take the scalar out (for example with .item())"
    )


def utility_of(rows: Iterable[Row]) -> Utility | None:
    """Returns the first utility (acc, wer, cer, ppl, bleu, chrf) that any of the rows has."""
    held = list(rows)
    return next(
        (u for u in UTILITIES if any(not math.isnan(number(row, u.column)) for row in held)), None
    )


def utility_named(column: str) -> Utility | None:
    """Returns the utility of that column, None for a column that is none."""
    return next((u for u in UTILITIES if u.column == column), None)


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Returns the columns of a summary of these rows: the design's, then others as first seen.

    The design's columns are always there, so that two summaries can be stacked; of the
    utilities only those that a row has.
    """
    seen = dict.fromkeys(column for row in rows for column in row)
    utilities = [u.column for u in UTILITIES]
    fixed = [*SETTINGS, *(c for c in utilities if c in seen), *RESULTS]
    known = {*fixed, *utilities}
    extras = [c for c in EXTRAS if c in seen]
    return [*fixed, *extras, *(c for c in seen if c not in known and c not in EXTRAS)]
