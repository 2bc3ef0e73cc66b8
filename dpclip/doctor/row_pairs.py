"""Gradient rows of a few records: each alone by plain autograd, and in one batch by the capture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpclip.doctor.evidence import Row, changes
from dpclip.doctor.prepared import Prepared
from dpclip.doctor.undisturbed import same_values


class Pairs(NamedTuple):
    """What was measured.

    Attributes:
        rows: of each record, alone and in the batch.
        total: relative change of the sum of all rows.
        followers: buffers that a forward leaves in a state that depends on the record.
        eps: of the coarsest precision that the model computes in.
    """

    rows: Sequence[Row]
    total: float
    followers: Sequence[str]
    eps: float

    @property
    def change(self) -> float:
        """The largest relative change of a row."""
        return max(changes(self.rows))


def pairs(ready: Prepared, items: Sequence[Any]) -> Pairs:
    """Returns what each record's row is alone and beside the others.

    Args:
        ready: the model.
        items: k >= 2 records.
    """
    beside, eps = ready.beside(items)
    total = [row.sum(0, dtype=torch.float64) for row in beside]
    rows, states = [], []
    for i, item in enumerate(items):
        alone, changed = ready.alone(item)
        rows.append(row_of(alone, [row[i] for row in beside]))
        states.append(changed)
        for left, grad in zip(total, alone, strict=True):
            left -= grad
    own = max(torch.finfo(p.dtype).eps for p in ready.params)
    longest = max(row.length for row in rows)
    gap = float(torch.stack([left.square().sum() for left in total]).sum().sqrt())
    return Pairs(rows, gap / longest if longest else 0.0, _followers(states), max(eps, own))


def row_of(alone: Sequence[Tensor], beside: Sequence[Tensor]) -> Row:
    """Returns the norms of one row in two places, and of what lies between."""
    sums = torch.zeros(4, dtype=torch.float64, device=alone[0].device)
    for one, other in zip(alone, beside, strict=True):
        a, b = one.double(), other.double()
        each = (a.square(), b.square(), (a - b).square(), a * b)
        sums += torch.stack([values.sum() for values in each]).to(sums.device)
    alone_, beside_, apart, dot = sums.tolist()
    return Row(math.sqrt(alone_), math.sqrt(beside_), math.sqrt(apart), dot)


def _followers(states: Sequence[dict[str, Tensor]]) -> tuple[str, ...]:
    """Returns the buffers that two records have left with the same shape and other values."""
    first, *others = states
    found = (
        name
        for name, value in first.items()
        if any(
            name in other
            and value.shape == other[name].shape
            and not same_values(value, other[name])
            for other in others
        )
    )
    return tuple(sorted(found))
