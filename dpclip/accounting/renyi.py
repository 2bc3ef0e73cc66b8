"""Renyi differential privacy of subsampled Gaussian steps."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from opacus.accountants.analysis.rdp import compute_rdp

from dpclip.accounting.history import History

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 72, 96, 128, 192, 256, 512, 1024)
"""Orders of RDP: Opacus', and larger ones, without which no epsilon below .17 can be told."""


def rdp(sigma: float, rate: float, order: float) -> float:
    """Returns the Renyi differential privacy of one subsampled Gaussian step (Opacus')."""
    found = compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=float(order))
    return max(0.0, float(found))  # a tiny one loses to rounding and may end just below zero


@lru_cache(maxsize=4096)
def curve_of(sigma: float, rate: float) -> NDArray[np.float64]:
    """Returns [orders] the RDP of one step; inf where it would take long to know.

    Opacus' series for a fractional order has some 10 sigma terms; with much noise small orders,
    where the fractions are, are not the best ones.
    """
    slow = sigma > 100 and rate < 1
    return np.array([math.inf if slow and o % 1 else rdp(sigma, rate, o) for o in ORDERS])


def total(pairs: History) -> NDArray[np.float64]:
    """Returns [orders] the Renyi differential privacy of a whole history."""
    found = np.zeros(len(ORDERS))
    for sigma, rate, steps in pairs:
        found += steps * curve_of(sigma, rate)
    return found


def converted(spent_rdp: float, order: float, delta: float) -> float:
    """Returns the epsilon of (order, spent_rdp)-RDP at delta (Canonne et al. 2020, Prop. 12)."""
    return spent_rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def least(curve: NDArray[np.float64], delta: float) -> float:
    """Returns the smallest epsilon at delta that one of the orders [orders] gives."""
    found = min(converted(c, order, delta) for c, order in zip(curve, ORDERS, strict=True))
    return max(0.0, float(found))
