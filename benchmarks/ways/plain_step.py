"""The plain training step that everything is compared with."""

from __future__ import annotations

from torch import Tensor

from benchmarks.models import Batch
from benchmarks.ways.sharing import whole
from benchmarks.ways.way import Setup, Step, Way


def plain() -> Way:
    """Returns training without clipping."""

    def build(setup: Setup) -> Step:
        model, optimizer = setup.model, setup.optimizer()

        def run(batch: Batch) -> Tensor:
            optimizer.zero_grad()
            loss = setup.losses(model(batch.x), batch.y).mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Step(model, run)

    return Way("plain", whole(), build)
