"""What the hooks do for operations on a module's parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dpclip.anchor import anchored, hookable
from dpclip.arrival import Batch, Sink, Switch
from dpclip.groups import Groups
from dpclip.ops import Parts


@dataclass(frozen=True)
class OpsHost:
    """Hands what arrives at operations to the sink.

    Attributes:
        switch: does nothing while its hooks are off.
        sink: who receives the parts.
        batch: the forward pass.
    """

    switch: Switch
    sink: Sink
    batch: Batch

    def tap(self, output: Tensor, form: Callable[[Tensor, Groups], Parts]) -> Tensor:
        """Returns the output of an operation, with a hook that takes `form` of its gradient."""
        if not output.requires_grad:
            output = anchored(output, shared=False)
        output, hooked = hookable(output)
        shape = output.shape
        hooked.register_hook(
            lambda grad: self.take(lambda groups: form(grad.reshape(shape), groups))
        )
        return output

    def take(self, form: Callable[[Groups], Parts]) -> None:
        """Takes `form(groups)` in the backward pass that is running."""
        if not self.switch.hooks_enabled:
            return
        self.sink.begin_backward(self.batch)
        groups = self.sink.groups()
        if groups.count:  # else padding only
            with torch.no_grad():
                self.sink.collect(form(groups))

    def defer(self, form: Callable[[Groups], Parts]) -> None:
        """Takes `form(groups)` when the backward pass that is running has ended."""

        def work() -> None:
            with torch.no_grad():
                self.sink.collect(form(self.sink.groups()))

        self.sink.defer(work)
