"""What has been spent, and why nothing may be claimed where nothing may."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from opacus.accountants.analysis.prv import (
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    discretize,
)
from opacus.accountants.analysis.rdp import compute_rdp
from scipy.fft import next_fast_len

from dpclip.sensitivity import effective_multiplier, rows_multiplier

History = Sequence[tuple[float, float, int]]
"""[(noise multiplier, q, steps), ...]: composition is commutative, so the order means nothing."""

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 72, 96, 128, 192, 256, 512, 1024)
"""Orders of RDP: Opacus', and larger ones, without which no epsilon below .17 can be told."""

_POINTS = 2**22  # of PRV's grid: 32 MB for an array, about 2 seconds
_NEAR = 2e-4  # a closer look at a tiny epsilon takes long and tells nobody anything
_PAIRS = 32  # different (noise multiplier, q) that are composed one by one
_WIDEST = 600.0  # PRV takes exp of its grid, which overflows at 709
NOT_POISSON = "batches were not drawn by Poisson sampling"
NO_NOISE = "no noise was added"


class Spent(NamedTuple):
    """An epsilon and where it comes from.

    Attributes:
        epsilon: an upper bound.
        by: the accountant whose figure it is, "prv" or "rdp".
        because: why that is another one, or another history, than was asked for; else empty.
    """

    epsilon: float
    by: str
    because: str = ""

    def __str__(self) -> str:
        return f"{self.by.upper()} accounting{f' ({self.because})' if self.because else ''}"


class Ledger:
    """The accountant of one training run, with the reasons that void its claim.

    Args:
        accountant: "prv" or "rdp", of Opacus.

    Raises:
        ValueError: an accountant that under-reports ("gdp") or an unknown one.
    """

    def __init__(self, accountant: str) -> None:
        check_accountant(accountant)
        self.mechanism = accountant
        self.reasons: list[str] = []
        self._steps: dict[tuple[float, float], int] = {}
        self._last: tuple[Spent, float] | None = None
        self.sample_rate: float | None = None  # of the last step

    @property
    def history(self) -> list[tuple[float, float, int]]:
        """[(effective noise multiplier, q, steps), ...], each pair once, as first seen."""
        return [(sigma, rate, steps) for (sigma, rate), steps in self._steps.items()]

    @history.setter
    def history(self, history: History) -> None:
        self._steps = {(s, q): n for s, q, n in _merged(history)}
        self.sample_rate = history[-1][1] if history else None

    def void(self, reason: str) -> None:
        """Makes epsilon infinite from now on, for this reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def charge(
        self, noise_multiplier: float, count_shift: float = 0.0, sample_rate: float | None = None
    ) -> None:
        """Adds one step of the subsampled Gaussian mechanism.

        Args:
            noise_multiplier: std of the noise on the rows over their sensitivity, at this step.
            count_shift: effect of one record on a released count, over the count's noise std.
            sample_rate: q that this logical batch was drawn with; None if it was not drawn by
                Poisson sampling, which voids the claim.

        Raises:
            ValueError: a noise multiplier that is negative or not finite, or q outside (0, 1].
        """
        known = sample_rate is None or 0 < sample_rate <= 1
        if not (0 <= noise_multiplier < math.inf and known):
            raise ValueError(
                f"A step with noise multiplier {noise_multiplier} and q = {sample_rate} cannot be "
                "charged: expected a finite noise multiplier >= 0 and 0 < q <= 1."
            )
        if noise_multiplier == 0:
            self.void(NO_NOISE)
        if sample_rate is None:
            self.void(NOT_POISSON)
        if self.reasons or sample_rate is None:
            return
        self.sample_rate = sample_rate
        pair = effective_multiplier(noise_multiplier, count_shift), sample_rate
        self._steps[pair] = self._steps.get(pair, 0) + 1

    def spent(self, delta: float) -> Spent:
        """Returns epsilon at this delta, and whose figure it is; inf where nothing holds."""
        if self.reasons:
            return Spent(math.inf, self.mechanism)
        found = spent(self.mechanism, self.history, delta)
        self._last = found, delta
        return found

    def epsilon(self, delta: float) -> float:
        """Returns epsilon at this delta: 0 before the first step, inf where nothing holds."""
        return self.spent(delta).epsilon

    @property
    def accounting(self) -> str:
        """The beginning of a guarantee: whose figure the last epsilon was, or would be."""
        if self._last is None or not self._last[0].because:
            return f"{self.mechanism.upper()} accounting"
        found, delta = self._last
        return f"{found} at delta = {delta:g}"

    @property
    def sampling(self) -> str:
        """How the logical batches of the steps so far were drawn, for a guarantee."""
        rates = [q for _, q in self._steps]
        if not rates:
            return "Poisson sampling"
        least, most = f"{min(rates):.4g}", f"{max(rates):.4g}"
        return f"Poisson sampling at q = {least}{f' to {most}' if most != least else ''}"


def check_accountant(mechanism: str) -> None:
    """Raises ValueError unless the accountant is one whose epsilon is an upper bound."""
    if mechanism not in ("prv", "rdp"):
        raise ValueError(
            f'accountant={mechanism!r} is not offered: expected "prv" or "rdp". '
            "(Gaussian-DP approximations report less than is spent.)"
        )


def epsilon(mechanism: str, history: History, delta: float) -> float:
    """Returns the add/remove epsilon of [(noise multiplier, q, steps), ...] at delta.

    Raises:
        ValueError: delta outside (0, 1).
    """
    return spent(mechanism, history, delta).epsilon


def spent(mechanism: str, history: History, delta: float) -> Spent:
    """Returns the add/remove epsilon of a history at delta, and whose figure it is.

    The RDP bound is valid wherever the PRV bound is, so it stands in where PRV fails numerically,
    and where it is the smaller (PRV adds its error bound, which is most of a tiny epsilon). A
    history of many different steps is first rounded up, see `_rounded`.

    Raises:
        ValueError: delta outside (0, 1), or another accountant.
    """
    check_accountant(mechanism)
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: expected a number between 0 and 1, e.g. 1 / (10 N).")
    pairs = _merged(history)
    if not pairs:
        return Spent(0.0, mechanism)
    few = _rounded(pairs, _PAIRS)
    told = f"{len(pairs)} kinds of steps rounded up to {len(few)}" if len(few) < len(pairs) else ""
    bound = Spent(_converted(_total(few), delta), "rdp", told)
    if mechanism == "rdp" or bound.epsilon == 0:
        return bound._replace(by=mechanism)
    found = _prv(few, delta)
    if isinstance(found, str):
        return bound._replace(because=found)
    if bound.epsilon < found:
        return bound._replace(because="which is below PRV's with its error bound")
    return Spent(found, "prv", told)


def _merged(history: Iterable[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Returns the history with each (noise multiplier, q) once, in the order first seen."""
    steps: dict[tuple[float, float], int] = {}
    for sigma, rate, count in history:
        steps[sigma, rate] = steps.get((sigma, rate), 0) + count
    return [(sigma, rate, count) for (sigma, rate), count in steps.items()]


def _rounded(pairs: History, limit: int) -> list[tuple[float, float, int]]:
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
        few, width = _merged(cells.values()), 1.1 * width
    return few


# ---- Renyi differential privacy ------------------------------------------------------------


def rdp(sigma: float, rate: float, order: float) -> float:
    """Returns the Renyi differential privacy of one subsampled Gaussian step (Opacus')."""
    found = compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=float(order))
    return max(0.0, float(found))  # a tiny one loses to rounding and may end just below zero


@lru_cache(maxsize=4096)
def _curve(sigma: float, rate: float) -> NDArray[np.float64]:
    """Returns [orders] the RDP of one step; inf where it would take long to know.

    Opacus' series for a fractional order has some 10 sigma terms; with much noise small orders,
    where the fractions are, are not the best ones.
    """
    slow = sigma > 100 and rate < 1
    return np.array([math.inf if slow and o % 1 else rdp(sigma, rate, o) for o in ORDERS])


def _total(pairs: History) -> NDArray[np.float64]:
    total = np.zeros(len(ORDERS))
    for sigma, rate, steps in pairs:
        total += steps * _curve(sigma, rate)
    return total


def converted(spent_rdp: float, order: float, delta: float) -> float:
    """Returns the epsilon of (order, spent_rdp)-RDP at delta (Canonne et al. 2020, Prop. 12)."""
    return spent_rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def _converted(curve: NDArray[np.float64], delta: float) -> float:
    least = min(converted(c, order, delta) for c, order in zip(curve, ORDERS, strict=True))
    return max(0.0, float(least))


# ---- privacy loss random variables ---------------------------------------------------------


def _prv(pairs: History, delta: float) -> float | str:
    """Returns Opacus' PRV bound (Gopi et al. 2021), or why there is none.

    PRV's error bound is part of what it reports: at Opacus' default of .01 it is a good part of a
    small epsilon, so later looks use .005 eps, as far as _POINTS permits.
    """
    steps, share = sum(n for *_, n in pairs), delta / 1000
    # Gopi et al., remark 5.6, as Opacus has it, with more orders.
    losses = [_converted(_total(pairs), share / 4)]
    losses += [_converted(_curve(s, q), share / (8 * steps)) for s, q, _ in pairs]
    wide, spread = max(losses) + 3, math.sqrt(steps * math.log(12 / share) / 2)
    points = min(_POINTS, 2 * _POINTS // len(pairs)) - steps
    finest = 2 * wide * spread / points if points > 0 else math.inf
    if wide > _WIDEST or finest > 1:
        return f"PRV's grid would be too large for {steps} steps and losses up to {wide:.3g}"
    error = max(min(0.05 * _converted(_total(pairs), delta), 1.0), finest)
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
    comes in at the other. (Without it, q = 1e-4, sigma = .3 and 1e6 steps made 0 of 18.)
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


# ---- the other way round -------------------------------------------------------------------


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
