"""The law of the exposure of a canary that was never trained on, bin by bin."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def null_shares(edges: ArrayLike, references: int | None = None) -> NDArray[np.float64]:
    """Returns the probability of each bin, [bins], of which the last holds its right edge.

    Among N references the rank is uniform on 1..N+1, and P(exposure >= b) is
    floor((N+1) 2^-b) / (N+1) for b >= 0. In the limit it is 2^-b, the law Exp(ln 2) (Carlini et
    al. 2019). What lies beyond the edges is in no bin.

    Args:
        edges: [bins + 1] growing, in bits.
        references: N, how many references a canary is ranked among; None for the limit.

    Raises:
        ValueError: If edges do not grow, or N is below 1.
    """
    bounds = np.asarray(edges, np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise ValueError(f"edges are {bounds.tolist()}, expected two or more that grow")
    if references is not None and references < 1:
        raise ValueError(f"references is {references}, expected at least 1, or None for the limit")
    reached = _at_least(bounds, references)
    shares = reached[:-1] - reached[1:]
    if references is not None:
        # The best rank may lie on the last edge, which belongs to the last bin.
        shares[-1] += reached[-1] - _above(float(bounds[-1]), references)
    return np.asarray(shares, np.float64)


def _at_least(bits: NDArray[np.float64], references: int | None) -> NDArray[np.float64]:
    """Returns P(exposure >= bits)."""
    if references is None:
        return np.asarray(np.exp2(-bits.clip(0.0)))
    ranks = references + 1
    return np.asarray(np.minimum(np.floor(_ranks_at(bits, ranks)), ranks) / ranks)


def _above(bits: float, references: int) -> float:
    """Returns P(exposure > bits)."""
    ranks = references + 1
    better = float(np.ceil(_ranks_at(np.float64(bits), ranks))) - 1
    return min(better, ranks) / ranks


def _ranks_at(bits: NDArray[np.float64] | np.float64, ranks: int) -> NDArray[np.float64]:
    """Returns the rank with that exposure, a whole number where rounding alone keeps it from it."""
    found = ranks * np.exp2(-bits)
    whole = np.rint(found)
    return np.where(np.abs(found - whole) <= 1e-9 * np.maximum(found, 1.0), whole, found)
