"""What is kept of a module without a rule, so that it can be run again after the backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpclip.axes import input_axes
from dpclip.groups import Groups
from dpclip.layers.functional import Call, looped_rows, vmapped_rows
from dpclip.units import Saved, Unit


class Rerun:
    """The outputs of one call of a module, and what came back through them.

    Args:
        unit: the module.
        rows: B.
        saved: its inputs.
        work: called with this when the backward has ended.
    """

    def __init__(self, unit: Unit, rows: int, saved: Saved, work: Callable[[Rerun], None]) -> None:
        self._unit, self._rows, self._saved, self._work = unit, rows, saved, work
        self._tensors: list[Tensor] = []
        self._axes: list[int] = []
        self._autocast = ("cpu", torch.bfloat16, False)
        self._gouts: dict[int, Tensor] = {}
        self._task = -1

    def note(self, value: Tensor, axis: int) -> None:
        """Keeps a copy of an output, since an activation in place may follow."""
        if not self._tensors:
            device = value.device.type
            dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            self._autocast = (device, dtype, enabled)
        self._tensors.append(value.detach().clone())
        self._axes.append(axis)

    def take(self, number: int, grad: Tensor, task: int) -> bool:
        """Keeps the gradient of an output; returns True for the first of a backward pass."""
        first = self._task != task
        if first:  # whatever an earlier one, cut short, has left
            self._task, self._gouts = task, {}
        self._gouts[number] = grad
        return first

    def start(self) -> None:
        """Runs the module again."""
        self._work(self)

    def rows(self, groups: Groups, declared: int) -> dict[nn.Parameter, Tensor]:
        """Returns rows [G, *shape], by vmap if the module allows it."""
        self._saved.check(self._unit)
        call = self._call(declared)
        self._gouts = {}
        if self._unit.rule == "vmap":
            try:
                return vmapped_rows(call, groups)
            except (RuntimeError, ValueError):
                self._unit.rule = "loop"  # not every operation can be vectorized; plan() shows it
        return looped_rows(call, groups)

    def _call(self, declared: int) -> Call:
        used = sorted(self._gouts)
        return Call(
            module=self._unit.module,
            names=self._unit.params,
            leaves=self._saved.leaves,
            spec=self._saved.spec,
            used=used,
            outputs=[self._tensors[i] for i in used],
            gouts=[self._gouts[i] for i in used],
            in_axes=input_axes(self._unit, self._saved, self._axes[0], self._rows, declared),
            out_axes=[self._axes[i] for i in used],
            autocast=self._autocast,
        )
