"""A mean with its 95 % interval, and what two of them allow us to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, gammaln, stdtrit

# Mean exposure of a secret that was never trained on: Exp(ln 2), or log2(e) bits.
NULL_EXPOSURE = 1 / math.log(2)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its bounds; NaN bounds mean that nothing is known, and no comparison holds."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there are bounds to compare with."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def below(self, other: "Interval") -> bool:
        """Whether all of this interval lies under all of the other; False where they overlap."""
        return self.high < other.low

    def above(self, other: "Interval") -> bool:
        """Whether all of this interval lies over all of the other; False where they overlap."""
        return self.low > other.high

    def contains(self, value: float) -> bool:
        """Whether the value lies within the bounds."""
        return self.low <= value <= self.high

    def within(self, low: float, high: float) -> "Interval":
        """Returns the interval without what the quantity cannot be; NaN limits do nothing."""
        return Interval(
            self.mean,
            self.low if math.isnan(low) or math.isnan(self.low) else max(self.low, low),
            self.high if math.isnan(high) or math.isnan(self.high) else min(self.high, high),
        )

    def __str__(self) -> str:
        bounds = f" [{self.low:.2f}, {self.high:.2f}]" if self.known else ""
        return f"{self.mean:.2f}{bounds}"


def over_seeds(values: Sequence[float]) -> Interval:
    """Returns the mean of one value per seed with Student's 95 % interval, NaN bounds for one."""
    present = np.array([value for value in values if not math.isnan(value)])
    if len(present) == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(present.mean())
    if len(present) == 1:
        return Interval(mean, math.nan, math.nan)
    error = float(present.std(ddof=1)) / math.sqrt(len(present))
    half = float(stdtrit(len(present) - 1, (1 + CONFIDENCE) / 2)) * error
    return Interval(mean, mean - half, mean + half)


def null_mean(references: float = math.nan) -> float:
    """Returns the exact mean exposure under the null for N references; the limit for NaN.

    The rank among N references is uniform on 1..N+1, so the mean is
    log2(N+1) - log2((N+1)!)/(N+1): 1.396 bits for 99, 1.436 for 999.
    """
    if math.isnan(references):
        return NULL_EXPOSURE
    ranks = references + 1
    return math.log2(ranks) - float(gammaln(ranks + 1)) / (math.log(2) * ranks)


def null_range(canaries: float, level: float, references: float = math.nan) -> tuple[float, float]:
    """Returns where the mean exposure of that many canaries lies with probability 1 - level.

    2 ln 2 times the sum of n Exp(ln 2) exposures is chi-squared with 2n degrees of freedom. The
    same formula shifted to the exact mean serves finitely many references.
    """
    shift = null_mean(references) - NULL_EXPOSURE
    scale = 2 * canaries * math.log(2)
    low, high = (float(chdtri(2 * canaries, tail)) / scale for tail in (1 - level / 2, level / 2))
    return low + shift, high + shift


def effective(canaries: float, references: float = math.nan) -> float:
    """Returns as how many independent canaries those of a run count.

    Canaries of a run share its references, which adds as much variance as one more sample of that
    size: var / n becomes var (1/n + 1/N).
    """
    if math.isnan(references) or references <= 0 or canaries <= 0:
        return canaries
    return 1 / (1 / canaries + 1 / references)
