"""What one record can do: the facts of a grouping and a weighting turned into a sensitivity."""

from __future__ import annotations

import math
from typing import NamedTuple

from dpclip.types import GroupingFacts, WeightingFacts


class Claim(NamedTuple):
    """What the sum of weighted rows supports.

    Attributes:
        noise_scale: the number that noise_multiplier is multiplied with, or None where noise
            would mean nothing because no row is bounded.
        sensitivity: add/remove sensitivity of the sum, or None where nothing may be claimed.
        because: why, as the end of a sentence.
        count_shift: effect of one record on a released count, over the count's noise std.
    """

    noise_scale: float | None
    sensitivity: float | None
    because: str
    count_shift: float = 0.0


def claim(grouping: GroupingFacts, weighting: WeightingFacts) -> Claim:
    """Returns the claim for groups weighed so, under add/remove of one unit.

    A bound on every row is not a sensitivity: the record must also be unable to change the other
    rows, through its group (grouping.radii) or through their weights (weighting.local).
    """
    bound = weighting.bound
    if bound is None:
        return Claim(None, None, weighting.because)
    if not weighting.local:
        return Claim(bound, None, weighting.because)
    if grouping.radii is None:
        return Claim(bound, None, grouping.because)
    sensitivity = grouping.radii * bound
    shift = 0.0
    if weighting.count_noise is not None:
        # Centred at 1/2, one row more or less moves the count of clipped rows by 1/2 (Andrew et
        # al. 2021, section 2.2); a record that changes the side of its whole group moves it by 1.
        shift = (0.5 if grouping.radii <= 1 else 1.0) / weighting.count_noise
    return Claim(
        sensitivity,
        sensitivity,
        f"adding or removing one {grouping.unit} moves the sum by at most {sensitivity:.4g}: "
        f"{weighting.because} and {grouping.because}; replacing one, which epsilon is not about, "
        f"moves it by at most {grouping.replace_one} with C = {bound:.4g}",
        shift,
    )


def effective_multiplier(noise_multiplier: float, count_shift: float) -> float:
    """Returns the noise multiplier of the rows and the count released together.

    Two Gaussian mechanisms on the same records are one with z = (z_rows^-2 + z_count^-2)^(-1/2)
    (Andrew et al. 2021, Theorem 1).
    """
    if noise_multiplier == 0 or count_shift == 0:
        return noise_multiplier
    return 1 / math.hypot(1 / noise_multiplier, count_shift)


def rows_multiplier(effective: float, count_shift: float) -> float:
    """Returns the noise multiplier of the rows that, with the count, has this effective one.

    It solves Theorem 1 of Andrew et al. 2021 for z_rows = (z^-2 - z_count^-2)^(-1/2), and rounds
    up: `effective_multiplier` of what it returns is never below `effective`.

    Raises:
        ValueError: the count alone has less noise than that.
    """
    share = effective * count_shift
    if share > 1 - 1e-9:
        raise ValueError(
            f"A count that one record moves by {count_shift:.4g} noise std has a multiplier of "
            f"{1 / count_shift:.4g}: no noise on the rows makes both together {effective:.4g}. "
            "Give the count more noise."
        )
    # 1 - share^2 in this form keeps its digits where the two are nearly equal.
    rows = effective / math.sqrt((1 - share) * (1 + share))
    while effective_multiplier(rows, count_shift) < effective:
        rows *= 1 + 1e-15 * (1 + rows / effective) ** 2
    return rows
