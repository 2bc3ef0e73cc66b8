"""What the audits of a sweep will be able to show, told before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from audits import exposure, gradient_audit, power, record_audit
from audits.planted import Planted
from audits.tasks import Task
from audits.trial import Setting
from dpclip.arms import Arm
from dpclip.cli.claims import Promise
from dpclip.cli.tasks import gradient_canaries


def by_records(planted: Planted, promised: Promise, setting: Setting) -> power.Power:
    """Returns what the canaries among the records can show about a claim."""
    declared = record_audit.declare(planted, setting)
    assert declared.guesses is not None
    return power.of_guesses(
        canaries=int(declared.once.sum()),
        guesses=declared.guesses,
        claim=promised.epsilon,
        delta=setting.delta,
        alpha=setting.alpha,
    )


def prospects(
    task: Task,
    planted: Planted,
    promises: Mapping[Arm, Promise | None],
    config: Mapping[str, Any],
    seed: int,
) -> Iterator[str]:
    """Yields a line for the references, and one for each arm that claims an epsilon.

    Args:
        task: with its canary families.
        planted: the panel of the first seed.
        promises: what each arm will claim.
        config: what the cells share.
        seed: the first.

    Raises:
        ValueError: too few gradient canaries, or a model that is too small for them.
    """
    for name, family in task.families.items():
        if family.space is None:
            most = exposure.sampled(0.0, [1.0] * family.references).low
            yield (
                f"{name}: {family.references} references; a canary that beats them all shows at "
                f"least {most:.1f} bits"
            )
    setting = Setting(seed, task.lr, task.epochs, config["delta"], config["alpha"], config["tests"])
    for arm, promised in promises.items():
        if promised is None:
            continue
        plain, wanted = by_records(planted, promised, setting), config["gradient_canaries"]
        if plain.resolves or not wanted:
            yield f"{arm.label}: {plain.sentence}"
            continue
        many = len(gradient_canaries(task, wanted, seed).ids)
        better = gradient_audit.prospects(many, promised.claimed, promised.epsilon, setting)
        yield f"{arm.label}: {many} gradient canaries, {better.sentence}"
