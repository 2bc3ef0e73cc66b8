"""Setting a way up on a model, and finding out whether it computes what it should."""

from __future__ import annotations

import copy
from typing import NamedTuple

from benchmarks.models import Batch, Workload
from benchmarks.ways.group_loop import loop, median_norm
from benchmarks.ways.refusal import Refusal, attempt
from benchmarks.ways.sharing import Sharing
from benchmarks.ways.way import Setup, Step, Way

TOLERANCE = 1e-3
"""Largest relative error of a gradient's norm that rounding explains."""

_WARM_UP = 3  # steps, in which buffers are made and rules are chosen


class Reference(NamedTuple):
    """What the loop over groups says of a first step.

    Attributes:
        bound: C, the median norm of the groups: half of them are clipped.
        norm: of the clipped mean gradient.
    """

    bound: float
    norm: float


class Started(NamedTuple):
    """A way after its first steps.

    Attributes:
        step: to go on with.
        error: relative error of its gradient's norm.
    """

    step: Step
    error: float

    @property
    def note(self) -> str | None:
        """What to tell readers about the result, if anything."""
        if self.error <= TOLERANCE:
            return None
        return f"Wrong: the norm of the clipped gradient is off by {self.error:.2g} of itself."


def reference(workload: Workload, batch: Batch, sharing: Sharing) -> Reference:
    """Returns what every way with this sharing must reproduce."""
    model = copy.deepcopy(workload.model)
    bound = median_norm(model, workload.losses, batch, sharing)
    step = loop(sharing).build(Setup(model, workload.losses, batch, bound))
    step.run(batch)
    return Reference(bound, step.gradient_norm())


def start(way: Way, workload: Workload, batch: Batch, known: Reference) -> Started | Refusal:
    """Returns the way on its own copy of the model after some steps, or why it cannot take them."""

    def warm() -> Started:
        model = copy.deepcopy(workload.model)
        setup = Setup(model, workload.losses, batch, known.bound, features=workload.features)
        step = way.build(setup)
        for _ in range(_WARM_UP):
            step.run(batch)
        return Started(step, abs(step.gradient_norm() / known.norm - 1))

    return attempt(warm)
