"""What has been spent, and why nothing may be claimed where nothing may."""

from __future__ import annotations

import math
from collections.abc import Callable

from dpclip.accounting.history import History, merged
from dpclip.accounting.spending import Spent, check_accountant, spent
from dpclip.sensitivity import effective_multiplier

NOT_POISSON = "batches were not drawn by Poisson sampling"
NO_NOISE = "no noise was added"
HALF = (
    "gradients of half precision are rounded before they get noise, which moves them by more than "
    "the sensitivity (keep the weights in float32 and use torch.autocast)"
)


class Ledger:
    """The accountant of one training run, with the reasons that void its claim.

    Args:
        accountant: "prv" or "rdp", of Opacus.

    Attributes:
        note: told of every step (effective noise multiplier, q) before it releases anything.

    Raises:
        ValueError: an accountant that under-reports ("gdp") or an unknown one.
    """

    def __init__(self, accountant: str) -> None:
        check_accountant(accountant)
        self.mechanism = accountant
        self.note: Callable[[float, float | None], None] | None = None
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
        self._steps = {(s, q): n for s, q, n in merged(history)}
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
        sigma = effective_multiplier(noise_multiplier, count_shift)
        if not self.reasons and sample_rate is not None:
            self.sample_rate = sample_rate
            self._steps[sigma, sample_rate] = self._steps.get((sigma, sample_rate), 0) + 1
        if self.note is not None:
            self.note(sigma, sample_rate)

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
