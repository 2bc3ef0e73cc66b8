"""What an exposure is, with its interval and what it rests on; checks of its arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audits.intervals import Scores, check_scores

__all__ = ["UNIFORM", "Exposure", "Seed", "Ties", "Values", "bits_of", "check_pool"]

# One value for each canary, in the shape of the losses: a float for a single loss.
Values: TypeAlias = float | NDArray[np.float64]
Ties: TypeAlias = Literal["worst", "random", "mid"]
Seed: TypeAlias = np.random.Generator | int | None

UNIFORM: Final = "the secret was drawn uniformly from its space"


@dataclass(frozen=True, eq=False)
class Exposure:
    """Exposures of one or many canaries, in bits.

    Attributes:
        bits: The estimate, in the shape of the losses.
        low: Lower end of each canary's interval at level 1 - alpha, in bits.
        high: Upper end; infinite where no reference has a lower loss and the space is not known.
        p_value: Of "this secret was not memorized".
        method: The estimator's name.
        counts: Sizes; for sampling also the references `below` and `tied` with each canary.
        ceiling: The largest exposure this estimator could have returned.
        alpha: Failure probability of each interval.
        assumptions: What must hold.
        valid: Whether the estimate can be used as what `method` says.
        reasons: What to know about the values; why they are not valid.
    """

    bits: Values
    low: Values
    high: Values
    p_value: Values
    method: str
    counts: Mapping[str, int | NDArray[np.int64]]
    ceiling: float
    alpha: float
    assumptions: tuple[str, ...]
    valid: bool = True
    reasons: tuple[str, ...] = ()


def check_pool(values: Scores, name: str = "references") -> NDArray[np.float64]:
    """The losses [N] that canaries are ranked among.

    Raises:
        ValueError: There are none, NaN is among them, or their shape is not [N].
    """
    pool = check_scores(name, values)
    if pool.ndim != 1:
        raise ValueError(f"{name} have shape {pool.shape}; expected [N], shared by all canaries.")
    return pool


def bits_of(space: float) -> float:
    """log2 |R|, the largest exposure in a space of |R| strings.

    Raises:
        ValueError: |R| is below 2 or not finite.
    """
    if not 2 <= space < math.inf:
        raise ValueError(
            f"space is {space}; expected the finite number of strings |R|, at least 2."
        )
    return math.log2(space)
