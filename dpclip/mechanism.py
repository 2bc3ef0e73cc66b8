"""The noisy sum of a step: how much noise it gets, and what it spends."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dpclip.budgets import Budget
from dpclip.ledger import NO_NOISE, Ledger
from dpclip.sensitivity import Claim, claim, effective_multiplier
from dpclip.types import GroupingFacts, Noise, State, Stream, Weighting


class Mechanism:
    """Adds noise in units of what one record can do, and charges for it.

    Args:
        facts: of the grouping.
        weighting: the rule; it may be replaced between two steps.
        noise: distribution of the noise.
        noise_multiplier: sigma; it may be changed between two steps.
        stream: source of the noise; the same numbers on all ranks, which add them all.
        ledger: keeps account.
        budget: what may be spent, or None.
    """

    def __init__(
        self,
        facts: GroupingFacts,
        weighting: Weighting,
        noise: Noise,
        noise_multiplier: float,
        stream: Stream,
        ledger: Ledger,
        budget: Budget | None = None,
    ) -> None:
        self.facts, self.weighting, self._noise = facts, weighting, noise
        self.noise_multiplier, self.stream, self.ledger = noise_multiplier, stream, ledger
        self._budget = budget

    def claim(self, state: State) -> Claim:
        """Returns what the sum of weighted rows supports at this state of the weighting."""
        return claim(self.facts, self.weighting.facts(state))

    def std(self, state: State, divisor: float) -> float:
        """Returns the std of the noise on each coordinate of p.grad, which is a sum over D."""
        scale = self.claim(state).noise_scale
        return 0.0 if scale is None else self.noise_multiplier * scale / divisor

    def add_noise(
        self, grads: Iterable[Tensor], std: float, look: Callable[[Tensor], None] | None = None
    ) -> None:
        """Adds noise to gradients, in place; `look` gets what was added to each."""
        if std == 0:
            return
        for grad in grads:
            # In half precision, noise that is rounded first would swallow what it is added to.
            wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
            before = wide.clone() if look else wide
            wide += self._noise.sample(wide, std, self.stream)
            if look:
                look(wide - before)
            if wide is not grad:
                grad.copy_(wide)

    def charge(self, state: State, rate: float | None) -> None:
        """Adds a step of logical batches drawn at this rate to the account.

        Raises:
            BudgetSpent: it would spend more than the budget; nothing was released.
        """
        made = self.claim(state)
        if self._budget is not None and rate is not None and self.noise_multiplier > 0:
            sigma = effective_multiplier(self.noise_multiplier, made.count_shift)
            self._budget.check(self.ledger.history, sigma, rate)
        if made.sensitivity is None:
            self.ledger.void(made.because)
        self.ledger.charge(self.noise_multiplier, made.count_shift, rate)

    def affords(self, state: State, rate: float | None) -> bool:
        """Returns True if a step of batches drawn at this rate fits into the budget."""
        if self._budget is None or rate is None or self.noise_multiplier == 0:
            return True
        sigma = effective_multiplier(self.noise_multiplier, self.claim(state).count_shift)
        return self._budget.admits(self.ledger.history, sigma, rate)

    def why_not(self, state: State) -> list[str]:
        """Returns the reasons for which nothing may be claimed; none if something may."""
        made = self.claim(state)
        reasons = [made.because] if made.sensitivity is None else []
        if not reasons and self.noise_multiplier == 0:
            reasons = [NO_NOISE]
        return list(dict.fromkeys([*reasons, *self.ledger.reasons]))
