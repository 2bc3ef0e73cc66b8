"""dpclip itself. The one file here that calls its public API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch.utils.data import DataLoader, TensorDataset

from benchmarks.ways.sharing import Sharing, whole
from benchmarks.ways.way import Setup, Step, Way, usual_step
from dpclip import PrivacyEngine, by_angle, clip, clusters, per_core, scarcity
from dpclip.types import Grouping, Pacing, Weighting


@dataclass(frozen=True)
class Plan:
    """How dpclip chooses between rules that give the same gradient.

    Attributes:
        memory: "fast", "low", or a budget in bytes.
        measure: whether to choose by timing on the first batch, rather than by shapes.
        loop: whether to run the model once for each group instead.
    """

    memory: Literal["fast", "low"] | int = "fast"
    measure: bool = True
    loop: bool = False

    @property
    def label(self) -> str:
        """How tables call it."""
        if self.loop:
            return "looped"
        memory = self.memory if isinstance(self.memory, str) else f"{self.memory} bytes"
        return memory if self.measure else f"{memory}, by shapes"


def engine(sharing: Sharing, plan: Plan) -> Way:
    """Returns clipping by dpclip.

    Args:
        sharing: which samples share a gradient.
        plan: how fast against how much memory.
    """

    def build(setup: Setup) -> Step:
        return _step(setup, plan, sharing.grouping, clip(setup.bound))

    return Way(f"dpclip {sharing.label}", sharing, build)


def grad_queue(k: int, plan: Plan) -> Way:
    """Returns Grad Queue with a queue of three batches (arXiv 2404.16917).

    Until the queue is full, in the first three steps, its gradient is that of the whole batch,
    which is what it is checked against; what is timed are the steps after them.

    Args:
        k: clusters of the batch, 1 for the batch itself.
        plan: how fast against how much memory.
    """

    def build(setup: Setup) -> Step:
        grouping = per_core(1) if k == 1 else clusters(k, features=setup.features)
        return _step(setup, plan, grouping, scarcity(length=3))

    return Way(f"Grad Queue k={k}", whole(), build)


def paced(sharing: Sharing, plan: Plan) -> Way:
    """Returns clipping in batches paced by angle (arXiv 2005.02008), one increment at a time.

    On one batch over and over no angle tells anything, so the cap decides: every third increment
    is an update.

    Args:
        sharing: which samples share a gradient.
        plan: how fast against how much memory.
    """

    def build(setup: Setup) -> Step:
        pacing = by_angle(cap=3 * setup.batch.samples)
        return _step(setup, plan, sharing.grouping, clip(setup.bound), pacing)

    return Way(f"dpclip {sharing.label}, paced", sharing, build)


def _step(
    setup: Setup,
    plan: Plan,
    grouping: Grouping,
    weighting: Weighting,
    pacing: Pacing | None = None,
) -> Step:
    model, optimizer = setup.model, setup.optimizer()
    private = PrivacyEngine(seed=0, memory=plan.memory, measure=plan.measure, loop=plan.loop)
    private.make_private(
        module=model,
        optimizer=optimizer,
        # Batches are handed over as they are: drawing and collating them is not measured.
        data_loader=DataLoader(TensorDataset(*setup.batch), batch_size=setup.batch.samples),
        noise_multiplier=0.0,
        weighting=weighting,
        grouping=grouping,
        pacing=pacing,
        poisson_sampling=False,
    )
    return usual_step(model, setup, optimizer)
