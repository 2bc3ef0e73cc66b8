"""Gradient norms of single records, to see where canaries lie among the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpclip.gathering import Buffers, Gathered
from dpclip.groups import Groups, groups_of
from dpclip.hooks import GroupHooks
from dpclip.parts import Part
from dpclip.speed import Chooser


class _Norms:
    """A sink that keeps the norms of one backward pass by sample."""

    def __init__(self) -> None:
        self.gathered: Gathered | None = None
        self.work: list[Callable[[], None]] = []
        self.batch: _Rows | None = None

    def begin_forward(self, rows: int) -> _Rows:
        return _Rows(rows)

    def groups_ahead(self, batch: _Rows) -> Groups:
        return groups_of(torch.arange(batch.rows))

    def begin_backward(self, batch: _Rows) -> None:
        if self.batch is not batch:
            self.gathered = Gathered(batch.rows, Chooser("low"), Buffers(), set())
        self.batch = batch

    def groups(self) -> Groups:
        assert self.batch is not None
        return groups_of(torch.arange(self.batch.rows))

    def collect(self, parts: dict[nn.Parameter, Part]) -> None:
        assert self.gathered is not None
        self.gathered.add(parts)

    def defer(self, work: Callable[[], None]) -> None:
        self.work.append(work)


class _Rows:
    def __init__(self, rows: int) -> None:
        self.rows = rows


def gradient_norms(
    module: nn.Module, losses: Callable[[nn.Module, Any], Tensor], batch: Any
) -> Tensor:
    """Returns [B], the l2 norm of the gradient of each record's loss. Not private.

    Args:
        module: a model without hooks; its mode and its gradients are left as they were.
        losses: (model, batch) -> [B] loss of each record by itself.
        batch: B records, collated.
    """
    sink, training = _Norms(), module.training
    hooks = GroupHooks(module, sink)
    try:
        module.train()
        losses(module, batch).sum().backward()
        for work in sink.work:
            work()
    finally:
        hooks.cleanup()
        module.train(training)
    assert sink.gathered is not None
    with torch.no_grad():
        taken = [sink.gathered.taken(p) for p in sink.gathered.entries]
        return torch.stack([t[1] for t in taken if t is not None]).sum(0).sqrt()
