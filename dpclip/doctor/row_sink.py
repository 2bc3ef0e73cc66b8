"""A sink that keeps the gradient rows of single records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpclip.gathering import Buffers, Gathered
from dpclip.groups import Groups, groups_of
from dpclip.parts import Part
from dpclip.speed import Chooser


class RowSink:
    """Keeps the rows of one backward pass, every record a group of its own (see `arrival.Sink`).

    Args:
        rows: k records.
        device: where the model is.

    Attributes:
        eps: of the precision that autocast computes in, 0 without it.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.count, self._groups = rows, groups_of(torch.arange(rows), None, device)
        self._gathered = Gathered(rows, Chooser(), Buffers(), set())
        self._work: list[Callable[[], None]] = []
        self._device, self.eps = device, 0.0

    def begin_forward(self, rows: int) -> _Batch:
        """Returns the batch of a forward pass.

        Raises:
            RuntimeError: it has another number of samples than there are records.
        """
        if rows != self.count:
            raise RuntimeError(
                f"The model got {rows} samples in a batch of {self.count} records. Each record "
                "must be one sample of every forward pass."
            )
        return _Batch(rows)

    def groups_ahead(self, _batch: _Batch) -> Groups:
        """Returns the groups before the backward."""
        return self._groups

    def begin_backward(self, _batch: _Batch) -> None:
        """Does nothing: there is one backward."""

    def groups(self) -> Groups:
        """Returns the groups."""
        return self._groups

    def collect(self, parts: dict[nn.Parameter, Part]) -> None:
        """Takes the parts of one use of a layer."""
        self._gathered.add(parts)

    def defer(self, work: Callable[[], None]) -> None:
        """Keeps work for the end of the backward."""
        self._work.append(work)

    def note_precision(self, _module: nn.Module, _args: Any) -> None:
        """A forward pre-hook of the model that looks for autocast."""
        kind = self._device.type
        if torch.is_autocast_enabled(kind):
            self.eps = torch.finfo(torch.get_autocast_dtype(kind)).eps

    @torch.no_grad()
    def rows(self, params: Sequence[nn.Parameter]) -> list[Tensor]:
        """Returns the rows [k, *shape] of each parameter, when the backward has ended."""
        for work in self._work:
            work()
        found = self._gathered.rows(list(params))
        return [found[p] if p in found else p.new_zeros(self.count, *p.shape) for p in params]


class _Batch(NamedTuple):
    rows: int
