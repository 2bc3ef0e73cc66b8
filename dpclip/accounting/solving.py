"""The other way round: what noise, or how many steps, an epsilon allows."""

from __future__ import annotations

import math
from collections.abc import Callable

from dpclip.accounting.spending import epsilon
from dpclip.sensitivity import rows_multiplier


def noise_for(
    mechanism: str,
    target: float,
    delta: float,
    rate: float,
    steps: int,
    count_shift: float = 0.0,
) -> float:
    """Returns the smallest noise multiplier whose epsilon is at most `target`, to 1 % of epsilon.

    Args:
        mechanism: "prv" or "rdp".
        target: epsilon > 0.
        delta: in (0, 1).
        rate: q.
        steps: how many.
        count_shift: effect of one record on a count released beside the rows, over its noise std.

    Raises:
        ValueError: target <= 0, one that no noise multiplier below 1e4 reaches, or a count whose
            noise alone spends more.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target_epsilon={target}: expected a positive finite number.")

    def by(accountant: str) -> Callable[[float], float]:
        return lambda signal: epsilon(accountant, [(1 / signal, rate, steps)], delta)

    if by("rdp")(1e-4) > target:
        raise ValueError(
            f"target_epsilon={target} is out of reach at delta={delta}: a noise multiplier of "
            "10000 spends more. Use fewer steps, smaller batches or a larger delta."
        )
    signal = largest(by("rdp"), 1e-4, target)
    if mechanism == "prv":
        signal = largest(by("prv"), signal, target)
    if count_shift >= signal:
        raise ValueError(
            f"target_epsilon={target}: the noised count of the quantile alone spends epsilon "
            f"{by(mechanism)(count_shift):.3g}. Multiply count_noise by more than "
            f"{count_shift / signal:.2f}, or raise the target."
        )
    return rows_multiplier(1 / signal, count_shift)


def largest(
    spending: Callable[[float], float], start: float, target: float, apart: float = 0.0
) -> float:
    """Returns the largest x whose spending is at most the target, to 1 % of the spending.

    Steps are taken where log spending is straight in log x (it nearly is), inside of a bracket.

    Args:
        spending: grows with x.
        start: an x that is not too large.
        target: spending > 0.
        apart: no closer look than this difference of x.
    """
    low, high = (start, spending(start)), (math.inf, math.inf)
    for turn in range(200):
        if low[1] >= 0.99 * target or high[0] - low[0] <= max(apart, 1e-9 * low[0]):
            break
        x = _between(low, high, 0.995 * target, turn)
        here = x, spending(x)
        if here[1] > target:
            high = here
        else:
            low = here
    return low[0]


def _between(low: tuple[float, float], high: tuple[float, float], aim: float, turn: int) -> float:
    """Returns the next x: on the straight line in logarithms, or halfway where that may crawl."""
    if high[0] == math.inf:
        step = aim / low[1] if low[1] > 0 else math.inf
        return low[0] * min(10.0, max(step, 1.5**turn))
    part = 0.5
    if turn % 4 != 3 and low[1] > 0 and high[1] < math.inf:
        part = math.log(aim / low[1]) / math.log(high[1] / low[1])
    return low[0] * math.pow(high[0] / low[0], min(max(part, 0.02), 0.98))
