"""Checks of what an attack is given: members and non-members, models with and without a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audits.intervals import Scores, check_scores

if TYPE_CHECKING:
    from torch import Tensor

Flags: TypeAlias = "Sequence[bool] | NDArray[np.bool_] | Tensor"


class Sides(NamedTuple):
    """Scores of members [n_in] and of non-members [n_out], each in ascending order."""

    members: NDArray[np.float64]
    others: NDArray[np.float64]

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {"n_in": len(self.members), "n_out": len(self.others)}


def sides(scores: Scores, inside: Flags) -> Sides:
    """The scores [n] of members and of non-members, both sorted.

    Raises:
        ValueError: NaN, shapes that differ or are not [n], flags that are not booleans, or no
            members or no non-members.
    """
    values, flags = vector("scores", scores), booleans("inside", inside)
    if flags.shape != values.shape:
        raise ValueError(
            f"inside has shape {flags.shape} and scores {values.shape}; expected one flag for each "
            "score. `join` puts them together by id."
        )
    found = Sides(np.sort(values[flags]), np.sort(values[~flags]))
    if not len(found.members) or not len(found.others):
        raise ValueError(
            f"There are {len(found.members)} members and {len(found.others)} non-members; expected "
            "both: an attack is judged by telling one from the other."
        )
    return found


def booleans(name: str, values: Any) -> NDArray[np.bool_]:
    """The flags as a numpy array of booleans.

    Raises:
        ValueError: They are not booleans; 0 and 1 are refused, for scores look like that too.
    """
    flags = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if flags.dtype != np.bool_:
        raise ValueError(f"{name} has type {flags.dtype}; expected booleans, True for a member.")
    return flags


def vector(name: str, values: Scores) -> NDArray[np.float64]:
    """The values as float64 [n]; errors as in `check_scores`, or another shape."""
    scores = check_scores(name, values)
    if scores.ndim != 1:
        raise ValueError(f"{name} has shape {scores.shape}; expected [n].")
    return scores


def finite(name: str, values: Scores) -> NDArray[np.float64]:
    """The values as float64 in their shape.

    Raises:
        ValueError: There are none, or not all are finite.
    """
    scores = check_scores(name, values)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{name} has {int(np.isinf(scores).sum())} infinite values among {scores.size}; "
            "expected finite ones: compute logits and log probabilities, not their exponentials."
        )
    return scores


class Observed(NamedTuple):
    """One target model's signals and those of M shadow models, in shapes that fit.

    Attributes:
        target: [..., n], leading axes for queries (augmentations).
        shadows: [M, ..., n].
        inside: [M, n], whether the record was in the shadow model's training set.
    """

    target: NDArray[np.float64]
    shadows: NDArray[np.float64]
    inside: NDArray[np.bool_]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """`inside` in the shape of `shadows`: all queries of a record share its membership."""
        models, records = self.inside.shape
        between = (1,) * (self.shadows.ndim - 2)
        return np.broadcast_to(self.inside.reshape(models, *between, records), self.shadows.shape)


def observed(target: Scores, shadows: Scores, inside: Any) -> Observed:
    """The signals, checked.

    Raises:
        ValueError: Not finite, or shapes other than [..., n], [M, ..., n] and [M, n].
    """
    one, many = (
        finite("the target's signals", target),
        finite("the shadow models' signals", shadows),
    )
    flags = booleans("inside", inside)
    if one.ndim < 1 or many.ndim != one.ndim + 1 or many.shape[1:] != one.shape:
        raise ValueError(
            f"The target's signals have shape {one.shape} and the shadow models' {many.shape}; "
            "expected [..., n] and [models, ..., n]."
        )
    if flags.shape != (len(many), one.shape[-1]):
        raise ValueError(
            f"inside has shape {flags.shape}; expected [models, n] = "
            f"{(len(many), one.shape[-1])}, one flag for each shadow model and record."
        )
    return Observed(one, many, flags)


def need_models(side: str, inside: NDArray[np.bool_], fewest: int) -> NDArray[np.int64]:
    """How many shadow models [n] stand on one side of each record, checked.

    Args:
        side: "with" or "without", for the message.
        inside: [M, n], True on that side.
        fewest: models that each record needs.

    Raises:
        ValueError: Some record has fewer.
    """
    counts: NDArray[np.int64] = inside.sum(0)
    if (few := int((counts < fewest).sum())) > 0:
        raise ValueError(
            f"{few} of {inside.shape[1]} records have fewer than {fewest} shadow models {side} "
            "them: train more, each on a balanced half of the records."
        )
    return counts
