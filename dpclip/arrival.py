"""The gradient of one output of one call, on its way to the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dpclip.groups import Groups
from dpclip.parts import Part
from dpclip.precision import without_autocast
from dpclip.units import Saved, Unit


class Batch(Protocol):
    """What a sink knows of one forward pass."""

    @property
    def rows(self) -> int:
        """B."""


class Sink(Protocol):
    """Who receives what the hooks capture."""

    def begin_forward(self, rows: int) -> Batch:
        """Called when a forward with gradients starts; returns the batch it belongs to."""

    def groups_ahead(self, batch: Any) -> Groups:
        """Returns the groups of a batch before its backward."""

    def begin_backward(self, batch: Any) -> None:
        """Called with that batch before anything captured in it is handed over."""

    def groups(self) -> Groups:
        """Returns the groups of the batch whose backward is running."""

    def collect(self, parts: dict[nn.Parameter, Part]) -> None:
        """Takes the group gradients of each use of each layer."""

    def defer(self, work: Callable[[], None]) -> None:
        """Takes work to be done when the backward has ended."""


class Switch(Protocol):
    """Whether hooks are on."""

    hooks_enabled: bool


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class Arrival:
    """A hook on an output: takes its gradient [B, ...] and hands parts to the sink.

    Attributes:
        switch: does nothing while its hooks are off.
        sink: who receives the parts.
        unit: the module that was called.
        batch: the forward pass it was called in.
        saved: its inputs.
        axis: the batch axis of the output.
        shape: of the output.
    """

    switch: Switch
    sink: Sink
    unit: Unit
    batch: Batch
    saved: Saved
    axis: int
    shape: torch.Size

    def __call__(self, grad: Tensor) -> None:
        """Takes the gradient of the output."""
        if not self.switch.hooks_enabled:
            return
        if grad.dtype == torch.float16:
            raise RuntimeError(
                f"{self.unit.label} got a float16 gradient. Its range needs loss scaling "
                "(GradScaler), which would scale the rows before they are clipped. Use bfloat16."
            )
        self.sink.begin_backward(self.batch)
        self.saved.check(self.unit)
        groups = self.sink.groups()
        if not groups.count:  # padding only
            return
        form = self.unit.form
        assert form is not None
        with torch.no_grad(), without_autocast(grad.device):
            tensors = (*self.saved.tensors, *self.saved.known)
            inputs = [_leading(t, self.axis, self.batch.rows) for t in tensors]
            grad = grad if grad.shape == self.shape else grad.reshape(self.shape)
            grad = grad if self.axis == 0 else grad.movedim(self.axis, 0)
            self.sink.collect(form(self.unit.module, inputs, grad, groups))


def _leading(tensor: Tensor, axis: int, rows: int) -> Tensor:
    """Returns the tensor with the batch axis in front, if it has one there."""
    if axis and tensor.dim() > axis and tensor.shape[axis] == rows:
        return tensor.movedim(axis, 0)
    return tensor
