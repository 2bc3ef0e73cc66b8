"""Whether a record's row stays as it is when the other records leave, which every claim assumes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.doctor.evidence import LIMIT, Evidence, cause, changes
from dpclip.doctor.meeting import first_meeting
from dpclip.doctor.prepared import Prepared, Subject, prepared
from dpclip.doctor.row_pairs import Pairs, pairs, row_of
from dpclip.looping import GroupLoop

_LOOKED_AT = 4  # candidates for each record that is taken
_ROUNDING = 1000  # a row is off by that many eps at most, where float64 cannot tell


class LocalRows(NamedTuple):
    """What the check has found.

    Attributes:
        records: how many were tried.
        change: largest relative change of a row.
        double: whether that was measured in float64.
        why_not: why rows are not local, as a clause; None if they are, or if nobody knows.
        unknown: why nobody knows, as a clause; None otherwise.
        followers: buffers that follow the data.
    """

    records: int
    change: float
    double: bool
    why_not: str | None = None
    unknown: str | None = None
    followers: Sequence[str] = ()


def chosen(dataset: Any, records: int, seed: int) -> list[Any]:
    """Returns items of a data set, each loaded once: the smallest and the largest of some, others.

    Which ones are looked at is random, but the same for the same seed.

    Args:
        dataset: with len() and indices.
        records: how many items to return.
        seed: of the choice.
    """
    count = len(dataset)
    indices = Random(seed).sample(range(count), min(count, _LOOKED_AT * records))
    items = [dataset[i] for i in indices]
    order = sorted(range(len(items)), key=lambda i: _extent(items[i]))
    ends = [order[-1], order[0]] if len(items) > 1 else order
    rest = [i for i in range(len(items)) if i not in ends]
    return [items[i] for i in (ends + rest)[:records]]


def check_rows(subject: Subject, items: Sequence[Any]) -> LocalRows:
    """Returns whether rows are local, tried on some records.

    The gradient of each record alone, by plain autograd, is compared with its row in one batch of
    all of them, by the capture that trains the model. Rounding is told apart by a second look in
    float64, and random numbers in the model by other seeds.

    Args:
        subject: model, loss and data.
        items: k >= 2 records.
    """
    with prepared(subject) as ready:
        seen = pairs(ready, items)
        found = LocalRows(len(items), seen.change, False, followers=seen.followers)
        if seen.change <= LIMIT:
            return found
    exact = _in_double(subject, items)
    if exact is not None:
        seen = exact
        found = found._replace(change=exact.change, double=True)
        if exact.change <= LIMIT:
            return found
    with prepared(subject, found.double) as ready:
        if _unsteady(ready, items, seen):
            return found._replace(unknown=_RANDOM)
        if not found.double and seen.change <= _ROUNDING * seen.eps:
            return found._replace(unknown=_COARSE.format(seen.change, seen.eps))
        return found._replace(why_not=_reason(ready, items, seen))


_RANDOM = (
    "the gradient of a record alone is another with other random numbers, even with dropout "
    "modules off, so two batches cannot be compared; give doctor a loss without randomness"
)
_COARSE = (
    "rows differ by {:.1e}, which may be rounding (the model computes to {:.1e}) and could not be "
    "told apart in float64; give doctor a loss in float32, without autocast"
)


def _in_double(subject: Subject, items: Sequence[Any]) -> Pairs | None:
    """Returns the same in float64, None for a model or a loss that is written for one precision."""
    try:
        with prepared(subject, double=True) as ready:
            return pairs(ready, items)
    except (RuntimeError, TypeError, ValueError):
        return None


def _worst(seen: Pairs) -> int:
    each = changes(seen.rows)
    return each.index(max(each))


def _unsteady(ready: Prepared, items: Sequence[Any], seen: Pairs) -> bool:
    """Returns True if other random numbers change a record alone about as much."""
    item = items[_worst(seen)]
    again = row_of(ready.alone(item, seed=1)[0], ready.alone(item, seed=2)[0])
    return changes([again])[0] > 0.1 * min(seen.change, 1.0)


def _reason(ready: Prepared, items: Sequence[Any], seen: Pairs) -> str:
    module, batch = ready.subject.module, ready.batch(items)
    alone, worst = [ready.batch([item]) for item in items], _worst(seen)
    looped = isinstance(ready.subject.hooks, GroupLoop)
    evidence = Evidence(
        seen.rows,
        ready.subject.mean,
        seen.total,
        padded=any(_padded(batch, one, len(items)) for one in alone),
        normalizes=_normalizing(module),
        meets=first_meeting(module, ready.run, alone[worst], batch, worst),
        apart=looped,
    )
    return (
        f"a record's row changes by {seen.change:.2g} of its length when the other "
        f"{len(items) - 1} records leave the batch ({LIMIT:g} is allowed): {cause(evidence)}"
    )


def _normalizing(module: nn.Module) -> list[str]:
    """Returns the labels of modules of BatchNorm kind, by their class or its name."""
    return [
        f"{name or 'the model'} ({type(m).__name__})"
        for name, m in module.named_modules()
        if "batchnorm" in type(m).__name__.lower().replace("_", "")
        or isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]


def _padded(batch: Any, alone: Any, records: int) -> bool:
    """Returns True if a tensor of one record has other sizes in the batch, batch axes aside."""

    def sizes(leaf: Any) -> list[int] | None:
        return list(leaf.shape) if isinstance(leaf, Tensor) else None

    pairs = zip(pytree.tree_leaves(batch), pytree.tree_leaves(alone), strict=False)
    for many, one in ((sizes(a), sizes(b)) for a, b in pairs):
        if many is None or one is None or len(many) != len(one):
            continue
        differs = [(m, n) for m, n in zip(many, one, strict=True) if m != n]
        if any(pair != (records, 1) for pair in differs):
            return True
    return False


def _extent(item: Any) -> tuple[int, int]:
    """Returns (numbers in an item, those unlike the last of their tensor, as padding would be)."""
    size = filled = 0
    for leaf in pytree.tree_leaves(item):
        if isinstance(leaf, (Tensor, np.ndarray)):
            values = torch.as_tensor(leaf).detach().reshape(-1)
            size += values.numel()
            filled += int((values != values[-1:]).sum())
        elif hasattr(leaf, "__len__"):
            size += len(leaf)
    return size, filled
