"""Exposure by what a model makes of a canary: its transcript's errors, beside its loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from audits import exposure
from audits.planted import Planted
from audits.tasks.task import Task

__all__ = ["ErrorRanks", "error_ranks"]


@dataclass(frozen=True)
class ErrorRanks:
    """Errors of every canary, and exposures by them.

    Attributes:
        rate: [n] error rate of the canary, in the panel's order; NaN where its family has no
            `errors`.
        bits: [n] exposure by it, ties counted against memorization.
        held_out: [n] mean error rate of the references of the canary's family.
    """

    rate: NDArray[np.float64]
    bits: NDArray[np.float64]
    held_out: NDArray[np.float64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """[n] bool: canaries whose errors were counted."""
        return ~np.isnan(self.rate)


def error_ranks(task: Task, model: nn.Module, planted: Planted) -> ErrorRanks:
    """Returns errors and exposures, each family ranked among its own twins in eval mode.

    Many transcripts have no error at all or the same number of them, and every tie counts as a
    reference that is known better: a canary transcribed as well as one half of the references has
    at most one bit, however well it is known (arXiv 2310.11739).
    """
    n = len(planted.ids)
    rate, bits, held_out = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    training = model.training
    model.eval()
    try:
        for name, family in task.families.items():
            members = planted.members(name)
            if family.errors is None or not len(members):
                continue
            rate[members] = family.errors(model, [planted.records[i] for i in members])
            twins = np.asarray(family.errors(model, planted.references[name]))
            bits[members] = exposure.sampled(rate[members], twins, ties="worst").bits
            held_out[members] = twins.mean()
    finally:
        model.train(training)
    return ErrorRanks(rate, bits, held_out)
