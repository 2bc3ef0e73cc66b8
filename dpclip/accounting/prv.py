"""Privacy loss random variables, composed by Fourier transforms (Gopi et al. 2021)."""

from __future__ import annotations

import math
import warnings

import numpy as np
from opacus.accountants.analysis.prv import (
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    discretize,
)
from scipy.fft import next_fast_len

from dpclip.accounting.history import History
from dpclip.accounting.renyi import curve_of, least, total

_POINTS = 2**22  # of PRV's grid: 32 MB for an array, about 2 seconds
_NEAR = 2e-4  # a closer look at a tiny epsilon takes long and tells nobody anything
_WIDEST = 600.0  # PRV takes exp of its grid, which overflows at 709


def prv_bound(pairs: History, delta: float) -> float | str:
    """Returns Opacus' PRV bound (Gopi et al. 2021), or why there is none.

    PRV's error bound is part of what it reports: at Opacus' default of .01 it is a good part of a
    small epsilon, so later looks use .005 eps, as far as _POINTS permits.
    """
    steps, share = sum(n for *_, n in pairs), delta / 1000
    # Gopi et al., remark 5.6, as Opacus has it, with more orders.
    losses = [least(total(pairs), share / 4)]
    losses += [least(curve_of(s, q), share / (8 * steps)) for s, q, _ in pairs]
    wide, spread = max(losses) + 3, math.sqrt(steps * math.log(12 / share) / 2)
    points = min(_POINTS, 2 * _POINTS // len(pairs)) - steps
    finest = 2 * wide * spread / points if points > 0 else math.inf
    if wide > _WIDEST or finest > 1:
        return f"PRV's grid would be too large for {steps} steps and losses up to {wide:.3g}"
    error = max(min(0.05 * least(total(pairs), delta), 1.0), finest)
    while True:
        found = _composed(pairs, delta, error, _grid(max(wide, error + 3), error / spread, steps))
        if isinstance(found, str) or found <= 0:
            return found
        wanted = max(min(0.01, 0.005 * (found - error)), _NEAR, 0.005 * error, finest)
        if error <= 1.2 * wanted:
            return found
        error = wanted


def _grid(wide: float, mesh: float, steps: int) -> Domain:
    """Returns the points k mesh over [-wide, wide], as many as transform quickly.

    Rounding to the grid moves the mean of one step by up to mesh / 2, and Opacus moves the grid
    back only after composing, so there must be room for all steps: what leaves the grid at one end
    comes in at the other. (Without it, q = 1e-4, sigma = .3 and 1e6 steps made 0 of 46 at delta =
    .01.)
    """
    half = next_fast_len(math.ceil(wide / mesh + steps / 2) + 1, real=True)
    return Domain(-(half - 1) * mesh, half * mesh, 2 * half)


def _composed(pairs: History, delta: float, error: float, grid: Domain) -> float | str:
    """Returns PRV's upper bound on a grid, or why there is none.

    The powers of the Fourier transform multiply its rounding errors with the steps. By Parseval
    and Cauchy-Schwarz the mass of a tail is off by at most steps * eps * sqrt(n) |p|: that much
    of delta is given up, and where it would be a tenth of it there is no bound. (Unguarded, PRV
    reports .6 too little at delta = 1e-12 after 1e6 steps of noise 1000.)
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # quadrature, and logarithms of zero at q = 1
        try:
            losses = [PoissonSubsampledGaussianPRV(q, sigma) for sigma, q, _ in pairs]
            cut = [TruncatedPrivacyRandomVariable(p, grid.t_min, grid.t_max) for p in losses]
            steps = [n for *_, n in pairs]
            whole = compose_heterogeneous([discretize(p, grid) for p in cut], steps)
            rounding = sum(steps) * math.sqrt(grid.size) * float(np.linalg.norm(whole.pmf))
            rounding *= float(np.finfo(float).eps)
            if not rounding <= delta / 10:
                return f"PRV's rounding errors reach delta after {sum(steps)} steps"
            *_, found = whole.compute_epsilon(delta, max(delta / 1000, rounding), error)
        except (RuntimeError, ValueError) as failure:  # of Opacus' own checks
            return f"PRV failed: {failure}"
    return max(0.0, float(found)) if math.isfinite(found) else f"PRV returned {found}"
