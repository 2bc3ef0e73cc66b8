"""What a run has spent, as kinds of steps and how many of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

History = Sequence[tuple[float, float, int]]
"""[(noise multiplier, q, steps), ...]: composition is commutative, so the order means nothing."""


def merged(history: Iterable[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Returns the history with each (noise multiplier, q) once, in the order first seen."""
    steps: dict[tuple[float, float], int] = {}
    for sigma, rate, count in history:
        steps[sigma, rate] = steps.get((sigma, rate), 0) + count
    return [(sigma, rate, count) for (sigma, rate), count in steps.items()]


def rounded(pairs: History, limit: int) -> list[tuple[float, float, int]]:
    """Returns a history of at most `limit` different pairs that spends at least as much.

    Less noise and a larger q never spend less, for every number of steps: the noisier step is the
    other with noise added, and the rarer one is a mixture of the other with doing nothing. So the
    worst pair of distributions of the one dominates that of the other, and domination composes
    (Zhu et al. 2022). Neighbours are counted as the worst of them. A step spends about (q /
    noise)^2, of which cells of equal width in q and 1 / noise waste least.
    """
    few = list(pairs)
    least, most = min(s for s, *_ in pairs), max(q for _, q, _ in pairs)
    width = max(1 - min(least / s, q / most) for s, q, _ in pairs) / limit
    while len(few) > limit:
        cells: dict[tuple[int, int], tuple[float, float, int]] = {}
        for sigma, rate, count in pairs:
            cell = math.ceil(least / sigma / width), math.ceil(rate / most / width)
            low, high, before = cells.get(cell, (sigma, rate, 0))
            cells[cell] = min(low, sigma), max(high, rate), before + count
        few, width = merged(cells.values()), 1.1 * width
    return few
