"""What has been spent, and why nothing may be claimed where nothing may."""

from __future__ import annotations

import math
import warnings

from opacus.accountants import create_accountant
from opacus.accountants.accountant import IAccountant

from dpclip.sensitivity import effective_multiplier

_PRV_LIMIT = 100.0


class Ledger:
    """The accountant of one training run, with the reasons that void its claim.

    Args:
        accountant: "prv" or "rdp", of Opacus.
        sample_rate: q of the logical batches, or None if they were not drawn by Poisson sampling.

    Raises:
        ValueError: an accountant that under-reports ("gdp") or an unknown one.
    """

    def __init__(self, accountant: str, sample_rate: float | None) -> None:
        check_accountant(accountant)
        self.mechanism = accountant
        self.sample_rate = sample_rate
        self.reasons: list[str] = []
        self.history: list[tuple[float, float, int]] = []
        if sample_rate is None:
            self.void("batches were not drawn by Poisson sampling")

    def void(self, reason: str) -> None:
        """Makes epsilon infinite from now on, for this reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def charge(self, noise_multiplier: float, count_shift: float = 0.0) -> None:
        """Adds one step of the subsampled Gaussian mechanism."""
        if noise_multiplier == 0:
            self.void("no noise was added")
        if self.reasons or self.sample_rate is None:
            return
        sigma = effective_multiplier(noise_multiplier, count_shift)
        if self.history and self.history[-1][:2] == (sigma, self.sample_rate):
            self.history[-1] = (sigma, self.sample_rate, self.history[-1][2] + 1)
        else:
            self.history.append((sigma, self.sample_rate, 1))

    def epsilon(self, delta: float) -> float:
        """Returns epsilon at this delta: 0 before the first step, inf where nothing holds."""
        if self.reasons:
            return math.inf
        return epsilon(self.mechanism, self.history, delta)


def check_accountant(mechanism: str) -> None:
    """Raises ValueError unless the accountant is one whose epsilon is an upper bound."""
    if mechanism not in ("prv", "rdp"):
        raise ValueError(
            f'accountant={mechanism!r} is not offered: expected "prv" or "rdp". '
            "(Gaussian-DP approximations report less than is spent.)"
        )


def epsilon(mechanism: str, history: list[tuple[float, float, int]], delta: float) -> float:
    """Returns the add/remove epsilon of [(noise multiplier, q, steps), ...] at delta.

    PRV's error bound is part of what it reports: at the default of .01 it is a good part of a
    small epsilon, so a second look uses min(.01, .005 eps). Above an RDP epsilon of 100 PRV's grid
    does not fit into memory; the RDP bound, which is valid and larger, stands there.

    Raises:
        ValueError: delta outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: expected a number between 0 and 1, e.g. 1 / (10 N).")
    if not history:
        return 0.0
    rough = _ask("rdp", history, delta=delta)
    if mechanism == "rdp" or rough > _PRV_LIMIT:
        return rough
    first = _ask("prv", history, delta=delta, eps_error=0.01)
    error = 0.005 * first
    return first if error >= 0.01 else _ask("prv", history, delta=delta, eps_error=error)


def noise_for(mechanism: str, target: float, delta: float, rate: float, steps: int) -> float:
    """Returns the smallest noise multiplier whose epsilon is at most `target`, to 1 % of epsilon.

    Raises:
        ValueError: target <= 0, or one that no noise multiplier below 1e4 reaches.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target_epsilon={target}: expected a positive finite number.")

    def spent(sigma: float) -> float:
        return epsilon(mechanism, [(sigma, rate, steps)], delta)

    low, high = 0.0, 1.0
    while (best := spent(high)) > target:
        low, high = high, 2 * high
        if high > 1e4:
            raise ValueError(f"target_epsilon={target} is out of reach at delta={delta}.")
    while best < 0.99 * target and high - low > 1e-6:
        middle = (low + high) / 2
        here = spent(middle)
        if here > target:
            low = middle
        else:
            high, best = middle, here
    return high


def _ask(mechanism: str, history: list[tuple[float, float, int]], **how: float) -> float:
    """Returns an Opacus accountant's epsilon without its advice on RDP orders."""
    accountant: IAccountant = create_accountant(mechanism=mechanism)
    accountant.history = list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(**how))
