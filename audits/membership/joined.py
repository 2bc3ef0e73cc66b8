"""Scores joined to coins by id, never by order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from audits.membership.rates import check_resolution
from audits.membership.sides import booleans, finite

T = TypeVar("T")
Pairs: TypeAlias = Mapping[str, T] | Iterable[tuple[str, T]]


@dataclass(frozen=True, eq=False)
class Joined:
    """Scores and coins of the same records; made by `join`.

    Attributes:
        ids: The records, in the order of the declaration.
        scores: [n] finite, higher = more member-like.
        inside: [n], the coins: whether the record was in the training data.
    """

    ids: tuple[str, ...]
    scores: NDArray[np.float64]
    inside: NDArray[np.bool_]


def join(
    scores: Pairs[float], ids: Sequence[str], inside: Sequence[bool] | Any, fpr: float | None = None
) -> Joined:
    """The scores of the declared records, in the declaration's order.

    Args:
        scores: id -> score, or pairs in any order.
        ids: The records that were declared, each once.
        inside: [n] their coins, in the same order.
        fpr: The false-positive rate of the headline, if there is to be one.

    Raises:
        ValueError: An id is missing, unknown or there twice, a score is NaN or infinite, there is
            not one coin for each id, no members or no non-members, or too few non-members for the
            headline.
    """
    declared = tuple(ids)
    pairs = list(scores.items() if isinstance(scores, Mapping) else scores)
    for where, names in (("ids", declared), ("scores", [name for name, _ in pairs])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"{_some(twice)} more than once in {where}; expected each id once.")
    found = dict(pairs)
    if missing := [name for name in declared if name not in found]:
        raise ValueError(
            f"{_some(missing)} without a score; expected one for every declared record: leaving "
            "some out is a choice that no interval covers."
        )
    if unknown := sorted(set(found) - set(declared), key=str):
        raise ValueError(f"{_some(unknown)} not among the {len(declared)} declared ids.")
    if bad := [name for name in declared if not math.isfinite(found[name])]:
        raise ValueError(
            f"{_some(bad)} with a score that is not finite, as {found[bad[0]]}; expected finite "
            "scores: log probabilities of a model that did not diverge."
        )
    flags = booleans("inside", inside)
    if flags.shape != (len(declared),):
        raise ValueError(
            f"inside has shape {flags.shape}; expected a coin for {len(declared)} ids."
        )
    members = int(flags.sum())
    if members in (0, len(flags)):
        raise ValueError(f"{members} of {len(flags)} records are members; expected some, not all.")
    if fpr is not None:
        check_resolution(len(flags) - members, fpr)
    return Joined(declared, finite("scores", [found[name] for name in declared]), flags)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{len(names)} ids ({shown}{', ...' if len(names) > 3 else ''})"
