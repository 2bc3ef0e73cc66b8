"""When to stop: limits on epsilon for runs that decide on the way how long they are.

A run may look at what it has released so far and decide how many steps it takes, with how much
noise, on how large batches. Its epsilon is then no longer the sum over the steps that it happened
to take, and two limits that are proved stand here. One must be chosen before training, and the
claim is the limit, (epsilon, delta), wherever the run stops.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from dpclip.accounting.history import History
from dpclip.accounting.renyi import ORDERS, converted, rdp
from dpclip.accounting.solving import largest
from dpclip.accounting.spending import epsilon as spend

_ROUNDING = 1e-12  # of the sums below, relative


class BudgetSpent(RuntimeError):
    """Raised where one more step would spend more than the budget."""


@dataclass(frozen=True)
class Budget:
    """A limit on what a run may spend, decided on before it starts.

    Attributes:
        label: the constructor call, for people.
        epsilon: the claim, at delta, wherever the run stops.
        delta: of the claim.
        left: (history, noise multiplier, q) -> how many more such steps fit.
        spent: history -> the epsilon counted so far; a diagnostic, and not a claim.
        because: the reason, as the end of a sentence.
    """

    label: str
    epsilon: float
    delta: float
    left: Callable[[History, float, float], int]
    spent: Callable[[History], float]
    because: str

    def admits(self, history: History, noise_multiplier: float, sample_rate: float) -> bool:
        """Returns True if one more step fits: effective noise multiplier and q of the next."""
        return self.left(history, noise_multiplier, sample_rate) > 0

    def check(self, history: History, noise_multiplier: float, sample_rate: float) -> None:
        """Raises unless one more step fits.

        Raises:
            BudgetSpent: it does not.
        """
        if self.admits(history, noise_multiplier, sample_rate):
            return
        steps = sum(count for *_, count in history)
        raise BudgetSpent(
            f"One more step with noise multiplier {noise_multiplier:.4g} and q = "
            f"{sample_rate:.4g} would break the budget, {self.label}: epsilon "
            f"{self.spent(history):.4g} of {self.epsilon:g} at delta = {self.delta:g} is spent "
            f"after {steps} steps. Stop training here and keep the model; for more steps choose "
            "a larger budget, more noise or smaller batches before training."
        )


def budget(epsilon: float, delta: float, *, noise_multiplier: float, sample_rate: float) -> Budget:
    """Returns a limit for steps whose noise and q may depend on earlier outputs: a Renyi filter.

    A step is admitted while the sum of (order, .)-RDP, this step included, stays below what
    (epsilon, delta) permits at that order. The sum then never exceeds it, and the run is
    (order, sum)-RDP although noise and q of each step are functions of what was released before
    (Feldman and Zrnic 2021, Theorem 3.1); Canonne et al. 2020, Proposition 12, makes it epsilon.

    The theorem is about one order that is fixed beforehand, so it is: the one that admits most
    steps of the planned kind. Admitting a step wherever *some* order permits it is another
    rule, since the order would depend on the outputs; filters by PRV of adaptive noise are known
    to fail (arXiv 2602.06756, 2602.15815). Neither is offered.

    Args:
        epsilon: what may be spent, > 0.
        delta: in (0, 1).
        noise_multiplier: the (effective) noise multiplier that is planned; a public constant.
        sample_rate: the q that is planned; a public constant. Other steps are admitted too, but
            if they are far from the plan, fewer than another order would.

    Raises:
        ValueError: an argument outside its range, or a budget that no step of the plan fits in.
    """
    _check(epsilon, delta, noise_multiplier, sample_rate)
    once = lru_cache(maxsize=4096)(rdp)

    def room(order: float) -> float:
        return (epsilon - converted(0.0, order, delta)) * (1 - _ROUNDING)

    def cost(order: float) -> float:
        return max(rdp(noise_multiplier, sample_rate, order), sys.float_info.min)

    order = max(map(float, ORDERS), key=lambda o: room(o) / cost(o))
    total = room(order)
    label = f"budget({epsilon:g}, {delta:g})"
    if cost(order) > total:
        raise ValueError(_too_small(label))

    def used(history: History) -> float:
        return sum(count * once(sigma, rate, order) for sigma, rate, count in history)

    def left(history: History, sigma: float, rate: float) -> int:
        step = max(once(sigma, rate, order), sys.float_info.min)
        return max(0, int(min((total - used(history)) / step, sys.maxsize)))

    return Budget(
        label,
        epsilon,
        delta,
        left,
        lambda history: converted(used(history), order, delta) if history else 0.0,
        f"a Renyi filter of order {order:g} stops before epsilon = {epsilon:g} at delta = "
        f"{delta:g}, whatever the steps depend on",
    )


def step_budget(
    epsilon: float,
    delta: float,
    *,
    noise_multiplier: float,
    sample_rate: float,
    accountant: str = "prv",
) -> Budget:
    """Returns a limit for steps of one kind of which only the number is decided on the way.

    As many steps are admitted as spend epsilon at delta, to 1 %. A run that stops earlier is
    a function of what the whole run would have released, so the claim holds by post-processing,
    with PRV's figure, which a filter of adaptive noise cannot have. A step with more noise or
    a smaller q counts as one of the plan: its worst pair of distributions is dominated by
    the plan's, and domination composes under adaptive choice (Zhu et al.
    2022, "Optimal accounting via characteristic function").

    Args:
        epsilon: what may be spent, > 0.
        delta: in (0, 1).
        noise_multiplier: the smallest (effective) noise multiplier of a step.
        sample_rate: the largest q of a step.
        accountant: "prv" or "rdp".

    Raises:
        ValueError: an argument outside its range, or a budget that no step of the plan fits in.
    """
    _check(epsilon, delta, noise_multiplier, sample_rate)
    plan = noise_multiplier, sample_rate

    def after(steps: float) -> float:
        return spend(accountant, [(*plan, int(steps))], delta)

    label = f"step_budget({epsilon:g}, {delta:g})"
    if after(1) > epsilon:
        raise ValueError(_too_small(label))
    limit = int(largest(after, 1.0, epsilon, apart=1.0))

    def planned(sigma: float, rate: float) -> bool:
        return sigma >= noise_multiplier and rate <= sample_rate

    def left(history: History, sigma: float, rate: float) -> int:
        if not all(planned(s, q) for s, q, _ in [*history, (sigma, rate, 1)]):
            return 0
        return max(0, limit - sum(count for *_, count in history))

    return Budget(
        label,
        epsilon,
        delta,
        left,
        lambda history: spend(accountant, history, delta),
        f"training stops after at most {limit} steps with noise multiplier >= "
        f"{noise_multiplier:g} and q <= {sample_rate:g}, which spend at most epsilon = "
        f"{epsilon:g} at delta = {delta:g}",
    )


def _check(epsilon: float, delta: float, noise_multiplier: float, sample_rate: float) -> None:
    """Raises ValueError for numbers that are no budget and no plan."""
    wrong = [
        f"{name}={value} (expected {expected})"
        for name, value, expected, right in (
            ("epsilon", epsilon, "a positive finite number", 0 < epsilon < math.inf),
            ("delta", delta, "a number between 0 and 1, e.g. 1 / (10 N)", 0 < delta < 1),
            (
                "noise_multiplier",
                noise_multiplier,
                "a positive finite number",
                0 < noise_multiplier < math.inf,
            ),
            ("sample_rate", sample_rate, "q with 0 < q <= 1", 0 < sample_rate <= 1),
        )
        if not right
    ]
    if wrong:
        raise ValueError(f"No budget can be made of {', '.join(wrong)}.")


def _too_small(label: str) -> str:
    return (
        f"{label}: not one step of the plan fits. Choose a larger epsilon or delta, more noise, or "
        "smaller batches."
    )
