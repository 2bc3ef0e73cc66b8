"""Whether noise is fresh in every step, where nothing but noise is released.

Noise that is drawn from the same seed in every step is invisible to a score that adds up the steps:
it is then too large rather than too small. Two steps beside each other give it away.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, erf


def repetition(noise: NDArray[np.float64]) -> float:
    """P-value of "all noise is fresh, independent and at least as large as claimed".

    From the smallest `max_j |z_sj - z_tj|` over all pairs of steps s < t: were they independent
    standard normal, it would be below x with probability erf(x / 2)^k for each pair. The pairs are
    counted (Bonferroni). Small if two steps share their noise, and also if there is too little.

    Args:
        noise: [T, k] in units of the claimed standard deviation.

    Raises:
        ValueError: not [T, k] with k >= 2, or not finite.
    """
    steps, k = _check(noise)
    pairs = steps * (steps - 1) // 2
    if not pairs:
        return 1.0
    smallest = min(float(np.abs(noise[s + 1 :] - noise[s]).max(1).min()) for s in range(steps - 1))
    return min(1.0, pairs * math.exp(k * math.log(max(float(erf(smallest / 2)), 1e-300))))


def correlation(noise: NDArray[np.float64]) -> float:
    """P-value of "the noise of any two steps is uncorrelated", whatever its size.

    From the largest |r| over all pairs of steps, r Pearson's over k coordinates: r^2 is then
    Beta(1/2, (k - 2) / 2) for normal noise. The pairs are counted (Bonferroni). Steps without any
    noise give 0. Arguments and errors as in `repetition`.
    """
    steps, k = _check(noise)
    pairs = steps * (steps - 1) // 2
    if not pairs:
        return 1.0
    centred = noise - noise.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    if (lengths == 0).any():
        return 0.0
    unit = centred / lengths
    largest = float(np.abs((unit @ unit.T)[np.triu_indices(steps, 1)]).max())
    # P(r^2 > x) with its tail taken directly, which 1 - betainc would round to 0.
    tail = float(betainc((k - 2) / 2, 0.5, max(0.0, 1 - largest * largest))) if k > 2 else 1.0
    return min(1.0, pairs * tail)


def _check(noise: NDArray[np.float64]) -> tuple[int, int]:
    if noise.ndim != 2 or noise.shape[0] < 1 or noise.shape[1] < 2 or not np.isfinite(noise).all():
        raise ValueError(
            f"noise has shape {noise.shape}; expected finite numbers [steps, coordinates], two "
            "coordinates at least"
        )
    return noise.shape[0], noise.shape[1]
