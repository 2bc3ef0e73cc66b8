"""From the parts of what a module computes from its parameters to parts of the parameters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dpclip.groups import Groups
from dpclip.ops.around import Host, Parts
from dpclip.ops.likes import Like
from dpclip.ops.placing import merged, placed
from dpclip.ops.sliced import rows_of
from dpclip.parts import Formed, Part


class Books:
    """Keeps what came back for the parameters that one call of a module used.

    Args:
        host: the hooks.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pending: dict[int, tuple[Like, Tensor]] = {}
        self._task = -1

    def begin(self) -> None:
        """Drops what a backward that was cut short has left; called when a gradient arrives."""
        task = torch._C._current_graph_task_id()
        if self._task != task:
            self._task, self._pending = task, {}

    def put(self, parts: Parts, like: Like, part: Part, groups: Groups) -> None:
        """Adds a part of `like.core` to the parts of the parameters.

        What is a function of parameters waits until the backward has ended: a scale that is used
        at every time step goes back through exp() once.
        """
        own = placed(like, part, groups)
        if own is not None:
            merged(parts, like.origins[0].param, own)
            return
        if not self._pending:
            self._host.defer(self._back)
        rows = rows_of(part).to(like.core.dtype)
        known = self._pending.get(id(like.core))
        self._pending[id(like.core)] = like, rows if known is None else known[1] + rows

    def _back(self, groups: Groups) -> Parts:
        """Returns the parts of parameters that functions of them were used of."""
        pending, self._pending = list(self._pending.values()), {}
        origins = list({id(o.alias): o for like, _ in pending for o in like.origins}.values())
        cores, rows = [like.core for like, _ in pending], [row for _, row in pending]
        for origin in origins:
            origin.gate.open = True
        try:
            grads = _pulled(cores, [origin.alias for origin in origins], rows)
        finally:
            for origin in origins:
                origin.gate.open = False
        parts: Parts = {}
        for origin, grad in zip(origins, grads, strict=True):
            if grad is not None:  # one parameter may have an alias in each of several calls
                merged(parts, origin.param, Formed(grad))
        return parts


def _pulled(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], rows: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Returns rows [G, ...] of the inputs from rows [G, ...] of the outputs, by autograd."""
    how = {"retain_graph": True, "allow_unused": True}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            return torch.autograd.grad(outputs, inputs, rows, is_grads_batched=True, **how)
    except RuntimeError:  # not every backward can be vectorized
        each = [torch.autograd.grad(outputs, inputs, row, **how) for row in zip(*rows, strict=True)]
        return [
            None if found[0] is None else torch.stack([g for g in found if g is not None])
            for found in zip(*each, strict=True)
        ]
