"""What a run will claim, known before it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from audits.gradient_audit import Claimed
from audits.planted import Planted
from audits.tasks import Task
from dpclip.accounting.spending import epsilon
from dpclip.arms import Arm
from dpclip.loader import sample_rate
from dpclip.sensitivity import claim, effective_multiplier


class Promise(NamedTuple):
    """An epsilon, and the mechanism that it is claimed for."""

    claimed: Claimed
    epsilon: float


def promises_of(
    arms: Sequence[Arm], task: Task, planted: Planted, config: Mapping[str, Any]
) -> dict[Arm, Promise | None]:
    """Returns what each arm of a sweep will claim.

    Raises:
        ValueError: noise so small that no accountant can put a number on it.
    """
    records = len(planted.train)  # type: ignore[arg-type]
    return {arm: promise(arm, task, records, config["delta"], config["accountant"]) for arm in arms}


def promise(arm: Arm, task: Task, records: int, delta: float, accountant: str) -> Promise | None:
    """Returns what an arm will claim after all its steps, or None where it claims nothing.

    Args:
        arm: how it trains.
        task: with its model, batch size and epochs.
        records: how many it is trained on, canaries among them.
        delta: at which epsilon is claimed.
        accountant: prv or rdp.

    Raises:
        ValueError: noise so small that no accountant can put a number on it.
    """
    rule = arm.rule()
    shapes = [p.shape for p in task.model(0).parameters() if p.requires_grad]
    made = claim(arm.grouping(task.features).facts, rule.facts(rule.init(shapes)))
    if made.sensitivity is None or arm.sigma == 0:
        return None
    sigma = effective_multiplier(arm.sigma, made.count_shift)
    loader: DataLoader[int] = DataLoader(range(records), batch_size=task.batch_size)  # type: ignore[arg-type]
    rate, steps = sample_rate(loader), task.epochs * len(loader)
    try:
        claimed = epsilon(accountant, [(sigma, rate, steps)], delta)
    except ArithmeticError as error:
        raise ValueError(
            f"Noise {arm.sigma:g} is too small for any accountant ({error}). Use more, or 0."
        ) from error
    return Promise(Claimed(rate, steps, sigma), claimed)
