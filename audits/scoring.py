"""From a model to the exposure of every canary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from audits import exposure, membership
from audits.membership import Auc
from audits.planted import Planted
from audits.tasks.task import Family, Task, scores


@dataclass(frozen=True)
class Scored:
    """Exposures of all canaries of a run.

    Attributes:
        bits: [n], in the panel's order.
        low, high: [n] interval of each.
        ceiling: the largest exposure that could have come out.
        null: mean exposure of a canary that was never trained on.
        references: held-out records a canary was ranked among (fillings, where enumerated).
        null_p: p-value of "the model never saw any of them", over all families.
    """

    bits: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ceiling: float
    null: float
    references: int
    null_p: float


def score(task: Task, model: nn.Module, planted: Planted) -> Scored:
    """Returns the exposures, each family ranked among its own twins."""
    n = len(planted.ids)
    bits, low, high = np.empty(n), np.empty(n), np.empty(n)
    ceilings, nulls, counts, p_values = [], [], [], []
    for name, family in task.families.items():
        members = planted.members(name)
        if not len(members):
            continue
        found = _of_family(task, model, planted, name, family, members)
        bits[members], low[members], high[members] = found.bits, found.low, found.high
        sampled = "references" in found.counts
        size = int(found.counts["references" if sampled else "space"])
        ceilings.append(found.ceiling)
        # A filling is ranked among itself and the others.
        nulls.append(exposure.null_mean(size if sampled else size - 1))
        counts.append(size)
        p_values.append(exposure.null_test(found))
    return Scored(
        bits,
        low,
        high,
        ceiling=max(ceilings),
        null=float(np.mean(nulls)),
        references=min(counts),
        null_p=min(1.0, len(p_values) * min(p_values)),  # Bonferroni: families may depend
    )


def _of_family(
    task: Task,
    model: nn.Module,
    planted: Planted,
    name: str,
    family: Family,
    members: NDArray[np.int64],
) -> exposure.Exposure:
    records = [planted.records[i] for i in members]
    if family.space is None:
        mine, twins = (
            scores(model, part, family.losses, task.collate, task.parts(part))
            for part in (records, planted.references[name])
        )
        return exposure.sampled(mine, twins, space=family.vast.size if family.vast else None)
    training = model.training
    model.eval()
    try:
        every = family.space.losses(model).double().numpy()
    finally:
        model.train(training)
    number = family.space.number
    return exposure.exact(every[[number(record) for record in records]], every)


def auc(scored: Scored, planted: Planted, alpha: float = 0.05) -> Auc | None:
    """Returns the AUC of telling canaries inserted once from held-out ones by their exposure.

    None where there are fewer than two of one kind, as coins may fall: no spread to judge by.
    """
    once, out = planted.tier(1), ~planted.inserted
    if min(once.sum(), out.sum()) < 2:
        return None
    bits = np.concatenate([scored.bits[once], scored.bits[out]])
    return membership.auc(bits, np.repeat([True, False], [once.sum(), out.sum()]), alpha)
