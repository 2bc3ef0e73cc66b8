"""Gradient norms of single records, to see where canaries lie among the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpclip.groups import Groups, groups_of
from dpclip.hooks import GroupHooks


class _Norms:
    """A sink that keeps the per-sample rows of one backward pass."""

    def __init__(self) -> None:
        self.rows: dict[nn.Parameter, Tensor] = {}
        self.work: list[Callable[[], None]] = []
        self.batch: _Rows | None = None

    def begin_forward(self, rows: int) -> _Rows:
        return _Rows(rows)

    def begin_backward(self, batch: _Rows) -> None:
        self.batch = batch

    def groups(self) -> Groups:
        assert self.batch is not None
        return groups_of(torch.arange(self.batch.rows))

    def collect(self, rows: dict[nn.Parameter, Tensor]) -> None:
        for param, row in rows.items():
            self.rows[param] = self.rows[param] + row if param in self.rows else row

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
    with torch.no_grad():
        per_layer = [torch.linalg.vector_norm(r.flatten(1), dim=1) for r in sink.rows.values()]
        norms: Tensor = torch.linalg.vector_norm(torch.stack(per_layer), dim=0)
    return norms
