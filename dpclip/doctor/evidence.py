"""What was seen of a record alone and beside others, and what the likely cause of a change is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LIMIT = 1e-4
"""Largest relative change of a row that counts as none."""

_PARALLEL = 1e-6  # 1 - cosine of rows that differ in length only
_NOTHING = 1e-6  # of the longest row: shorter ones are compared in units of this


class Row(NamedTuple):
    """The gradient row of one record, alone and beside others, over all parameters.

    Attributes:
        alone: its norm, with no other record.
        beside: its norm, in the batch.
        apart: norm of the difference.
        dot: inner product of both.
    """

    alone: float
    beside: float
    apart: float
    dot: float

    @property
    def finite(self) -> bool:
        """Whether both are."""
        return math.isfinite(self.alone) and math.isfinite(self.beside)

    @property
    def length(self) -> float:
        """The longer norm; 0 if it is not finite."""
        return max(self.alone, self.beside) if self.finite else 0.0


class Evidence(NamedTuple):
    """What is known when a row has changed.

    Attributes:
        rows: of each record.
        mean: whether losses were declared to be means over the batch.
        total: relative change of the sum of all rows.
        padded: whether a record is laid out in another shape beside others.
        normalizes: labels of modules of BatchNorm kind.
        meets: label of the first module whose output for a record changes, None if none was seen.
        apart: whether records go through the model one by one (`loop=True`).
    """

    rows: Sequence[Row]
    mean: bool
    total: float
    padded: bool = False
    normalizes: Sequence[str] = ()
    meets: str | None = None
    apart: bool = False


def changes(rows: Sequence[Row]) -> list[float]:
    """Returns ||alone - beside|| / max(||alone||, ||beside||) of each row.

    Rows that are not finite in either place are alike; in one of them, infinitely apart.
    """
    floor = _NOTHING * max((row.length for row in rows), default=0.0)
    return [_change(row, floor) for row in rows]


def _change(row: Row, floor: float) -> float:
    if not row.finite:
        return 0.0 if math.isfinite(row.alone) == math.isfinite(row.beside) else math.inf
    scale = max(row.length, floor)
    return row.apart / scale if scale else 0.0


def cause(seen: Evidence) -> str:
    """Returns the likely cause of a change and the way out, as the end of a sentence."""
    scales = _scales(seen.rows)
    if scales and _all_near(scales, len(seen.rows) if seen.mean else 1 / len(seen.rows)):
        return _declared(seen.mean)
    if scales:
        longer = " or by the padded length" if seen.padded else ""
        return (
            "the loss divides by something that is counted over the batch (as a mean over tokens "
            f"does){longer}; use a loss summed per record and divided by a public constant"
        )
    if seen.total <= LIMIT:
        return (
            "the rows of all records add up, but parts of one are taken for another's; a module "
            "moves samples along the batch axis (repeat where repeat_interleave is meant, a roll, "
            "a reshape), so keep each sample in its place"
        )
    if not seen.apart and (norm := _normalizes(seen)):
        return f"{norm} computes with statistics of the batch; use GroupNorm or LayerNorm"
    if seen.padded:
        return (
            "records are padded to the longest of the batch, and what is computed of one changes "
            "with its padding; pad to a public length, or mask the padding in every layer"
        )
    if seen.meets is not None and not seen.apart:
        return (
            f"samples meet in the model (batch statistics, attention over the batch): {seen.meets} "
            "is the first module whose output for a record depends on the others; compute each "
            "record by itself"
        )
    return (
        "samples meet in the loss (in-batch negatives, a statistic of the batch); compute the "
        "loss of a record from that record alone"
    )


def _scales(rows: Sequence[Row]) -> list[float]:
    """Returns the lengths in the batch over those alone if all rows keep their direction."""
    scales = []
    for row in rows:
        if not row.finite or not row.alone * row.beside:
            continue
        if row.dot < (1 - _PARALLEL) * row.alone * row.beside:
            return []
        scales.append(row.beside / row.alone)
    return scales


def _all_near(values: Sequence[float], wanted: float) -> bool:
    return all(math.isclose(value, wanted, rel_tol=1e-3) for value in values)


def _declared(mean: bool) -> str:
    found, declared = ("sum", "mean") if mean else ("mean", "sum")
    return (
        f'the loss is a {found} over the records and loss_reduction="{declared}" was declared; '
        f'pass loss_reduction="{found}"'
    )


def _normalizes(seen: Evidence) -> str | None:
    """Returns the module of BatchNorm kind that is to blame, None if there is none."""
    if seen.meets in seen.normalizes:
        return seen.meets
    return seen.normalizes[0] if seen.normalizes and seen.meets is None else None
