"""The obvious code: one forward and backward for each group, clipped and added up.

Slow for small groups, right for any model: what the other ways are checked against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.models import Batch, Losses
from benchmarks.ways.sharing import Sharing
from benchmarks.ways.way import Setup, Step, Way


def loop(sharing: Sharing) -> Way:
    """Returns the loop over the groups of each batch."""

    def build(setup: Setup) -> Step:
        model, optimizer = setup.model, setup.optimizer()
        params = list(model.parameters())

        def run(batch: Batch) -> Tensor:
            groups = parts(batch, sharing)
            total = [torch.zeros_like(p) for p in params]
            losses = batch.x.new_zeros((), dtype=total[0].dtype)
            for group in groups:
                loss, grads = gradient(model, setup.losses, group)
                losses += loss * group.samples / batch.samples
                norm = nn.utils.get_total_norm(grads)
                weight = (setup.bound / norm).clamp(max=1.0) / len(groups)
                for all_groups, grad in zip(total, grads, strict=True):
                    all_groups += weight * grad
            for p, clipped in zip(params, total, strict=True):
                p.grad = clipped
            optimizer.step()
            return losses

        return Step(model, run)

    return Way(f"loop {sharing.label}", sharing, build)


def median_norm(model: nn.Module, losses: Losses, batch: Batch, sharing: Sharing) -> float:
    """Returns the median over the groups of a batch of the norm of their mean gradient."""
    norms: Iterator[Tensor] = (
        nn.utils.get_total_norm(gradient(model, losses, group)[1])
        for group in parts(batch, sharing)
    )
    return float(torch.stack(list(norms)).median())


def parts(batch: Batch, sharing: Sharing) -> list[Batch]:
    """Returns the batch of each group."""
    pairs = zip(sharing.split(batch.x), sharing.split(batch.y), strict=True)
    return [Batch(x, y) for x, y in pairs]


def gradient(model: nn.Module, losses: Losses, group: Batch) -> tuple[Tensor, Sequence[Tensor]]:
    """Returns the mean loss of a group and its gradient by each parameter."""
    loss = losses(model(group.x), group.y).mean()
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))
