"""A way to take a training step: what it starts from, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.models import Batch, Losses
from benchmarks.ways.sharing import Sharing


@dataclass(frozen=True)
class Setup:
    """What a way starts from.

    Attributes:
        model: its own copy.
        losses: (output, targets) -> [B] losses.
        batch: an example of the batches to come.
        bound: C, the largest norm of a group's mean gradient.
        lr: of plain SGD; 0 leaves the model as it is.
        features: submodule whose output describes a sample; empty if none does.
    """

    model: nn.Module
    losses: Losses
    batch: Batch
    bound: float
    lr: float = 0.0
    features: str = ""

    def optimizer(self, model: nn.Module | None = None) -> torch.optim.SGD:
        """Returns the optimizer of the model, or of what a way has made of it."""
        return torch.optim.SGD((model or self.model).parameters(), lr=self.lr)


@dataclass(frozen=True)
class Step:
    """A way, set up.

    Attributes:
        model: whose parameters hold the clipped mean gradient after a call.
        run: takes one training step and returns the mean loss before it.
    """

    model: nn.Module
    run: Callable[[Batch], Tensor]

    def gradient_norm(self) -> float:
        """Returns the l2 norm of the gradient that the last step has used."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(grads))


def usual_step(model: nn.Module, setup: Setup, optimizer: Optimizer) -> Step:
    """Returns the step of an ordinary training loop, in which only model and optimizer differ."""

    def run(batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = setup.losses(model(batch.x), batch.y).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Step(model, run)


@dataclass(frozen=True)
class Way:
    """A way to take a training step.

    Attributes:
        label: how tables call it.
        sharing: which samples share a gradient.
        build: sets it up; raises whatever it raises on a model that it cannot train.
    """

    label: str
    sharing: Sharing
    build: Callable[[Setup], Step]
