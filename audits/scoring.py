"""From a model to the exposure of every canary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from audits import exposure
from audits.bounds import default_guesses, steinke
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
    """

    bits: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ceiling: float
    null: float
    references: int


def score(task: Task, model: nn.Module, planted: Planted) -> Scored:
    """Returns the exposures, each family ranked among its own twins."""
    n = len(planted.ids)
    bits, low, high = np.empty(n), np.empty(n), np.empty(n)
    ceilings, nulls, counts = [], [], []
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
    return Scored(bits, low, high, max(ceilings), float(np.mean(nulls)), min(counts))


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
        mine = scores(model, records, family.losses, task.collate)
        twins = scores(model, planted.references[name], family.losses, task.collate)
        return exposure.sampled(mine, twins)
    training = model.training
    model.eval()
    try:
        every = family.space.losses(model).double().numpy()
    finally:
        model.train(training)
    number = family.space.number
    return exposure.exact(every[[number(record) for record in records]], every)


def auc(scored: Scored, planted: Planted) -> float:
    """Returns the AUC of telling canaries inserted once from held-out ones by their exposure."""
    once, out = planted.tier(1), ~planted.inserted
    if not once.any() or not out.any():
        return math.nan
    bits = np.concatenate([scored.bits[once], scored.bits[out]])
    return float(roc_auc_score(np.repeat([1, 0], [once.sum(), out.sum()]), bits))


def lower_bound(scored: Scored, planted: Planted, delta: float, alpha: float) -> float:
    """Returns a lower bound on epsilon from the coins of the canaries that appear at most once.

    One run, guesses fixed beforehand: the top half of r are guessed in, the bottom half out.
    """
    candidates = np.flatnonzero(planted.repetitions == 1)
    if len(candidates) < 2:
        return 0.0
    half = max(1, default_guesses(len(candidates)) // 2)
    order = candidates[np.argsort(scored.bits[candidates], kind="stable")]
    right = int((~planted.inserted[order[:half]]).sum() + planted.inserted[order[-half:]].sum())
    bound = steinke(
        canaries=len(candidates), guesses=2 * half, correct=right, delta=delta, alpha=alpha
    )
    return float(bound.epsilon)
