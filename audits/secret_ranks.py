"""Where inserted secrets rank among all fillings of a format too large to enumerate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from audits.planted import Planted
from audits.tasks.task import Task

__all__ = ["SecretRanks", "secret_ranks"]


@dataclass(frozen=True)
class SecretRanks:
    """Ranks by best-first search, beside exposures that come from sampled references.

    Attributes:
        searched: [n] bool, in the panel's order: inserted canaries of a family that was searched.
        lowest: [n] the rank is at least this; NaN where not searched.
        highest: [n] and at most this; the rank is exact where the two are equal.
        extracted: [n] bool: among the family's most likely fillings, as many as were inserted.
        evaluations: prefixes that the model saw in all.
    """

    searched: NDArray[np.bool_]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    extracted: NDArray[np.bool_]
    evaluations: int

    @property
    def rank(self) -> NDArray[np.float64]:
        """[n] exact ranks, NaN where the search ended before or there was none."""
        return np.asarray(np.where(self.lowest == self.highest, self.lowest, np.nan))


def secret_ranks(task: Task, model: nn.Module, planted: Planted) -> SecretRanks:
    """Returns the ranks of the inserted secrets, each family searched by itself in eval mode."""
    n = len(planted.ids)
    searched, extracted = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    lowest, highest = np.full(n, np.nan), np.full(n, np.nan)
    evaluations, training = 0, model.training
    model.eval()
    try:
        for name, family in task.families.items():
            members = planted.members(name)
            members = members[planted.inserted[members]]
            if family.vast is None or not len(members):
                continue
            found = family.vast.search(model, [planted.records[i] for i in members])
            searched[members] = True
            lowest[members], highest[members] = found.lowest, found.highest
            extracted[members] = found.highest <= len(members)
            evaluations += found.evaluations
    finally:
        model.train(training)
    return SecretRanks(searched, lowest, highest, extracted, evaluations)
