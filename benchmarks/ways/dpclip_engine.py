"""dpclip itself. The one file here that calls its public API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch.utils.data import DataLoader, TensorDataset

from benchmarks.ways.sharing import Sharing
from benchmarks.ways.way import Setup, Step, Way, usual_step
from dpclip import PrivacyEngine


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
        model, optimizer = setup.model, setup.optimizer()
        private = PrivacyEngine(seed=0, memory=plan.memory, measure=plan.measure, loop=plan.loop)
        private.make_private(
            module=model,
            optimizer=optimizer,
            # Batches are handed over as they are: drawing and collating them is not measured.
            data_loader=DataLoader(TensorDataset(*setup.batch), batch_size=setup.batch.samples),
            noise_multiplier=0.0,
            max_grad_norm=setup.bound,
            grouping=sharing.grouping,
            poisson_sampling=False,
        )
        return usual_step(model, setup, optimizer)

    return Way(f"dpclip {sharing.label}", sharing, build)
