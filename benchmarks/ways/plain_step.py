"""The plain training step that everything is compared with."""

from __future__ import annotations

from benchmarks.ways.sharing import whole
from benchmarks.ways.way import Setup, Step, Way, usual_step


def plain() -> Way:
    """Returns training without clipping."""

    def build(setup: Setup) -> Step:
        model, optimizer = setup.model, setup.optimizer()
        return usual_step(model, setup, optimizer)

    return Way("plain", whole(), build)
