"""A mode that sees every operation of one call of a module, and captures those on parameters."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _get_function_stack_at, _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from dpclip.ops.around import Around, Watched
from dpclip.ops.capturing import Capturing, Shared
from dpclip.ops.cells import CELLS
from dpclip.ops.descend import opened
from dpclip.ops.lineage import Lineage, tensors_in
from dpclip.ops.table import Call
from dpclip.ops.visit import Visit

_SHAPED_LIKE = frozenset({
    Tensor.to, Tensor.type_as, Tensor.view_as, Tensor.expand_as, Tensor.reshape_as,
})  # fmt: skip
"""Operations that read dtype or shape of their other tensor, not its numbers."""


_SEVERAL = (tuple, list)


class Watch(TorchFunctionMode):
    """Captures the operations on the parameters of modules during one forward.

    Args:
        around: the forward.
    """

    def __init__(self, around: Around) -> None:
        super().__init__()
        self.awake, self.around = True, around
        self.active = False
        self.visits: list[Visit] = []
        self.lineage = Lineage(around)
        self.capturing = Capturing(around, self.lineage, self.visits)
        self._inside: list[Callable[..., Any]] = []

    def begin(self, unit: Watched, turn: int) -> None:
        """Begins a call of a module; its parameters are watched from now on."""
        visit = Visit(unit, turn)
        self.visits.append(visit)
        for like in visit.likes:
            self.lineage.take_in(like)

    def end(self) -> None:
        """Ends the call of the module that began last."""
        self.visits.pop().end()

    def start(self) -> None:
        """Begins to see operations."""
        self.__enter__()
        self.active = True

    def stop(self) -> None:
        """Ends to see operations."""
        self.__exit__(None, None, None)
        self.active = False

    def pause(self) -> bool:
        """Stops for a while, if nobody else began to watch since; returns True if so."""
        depth = _len_torch_function_stack()
        mine = depth > 0 and _get_function_stack_at(depth - 1) is self
        if mine:
            _pop_mode()
            self.active = False
        return mine

    def abandon(self) -> None:
        """Ends everything, wherever it is; used after an interrupt."""
        self.awake = False
        while self.visits:
            self.end()
        stack = [_pop_mode() for _ in range(_len_torch_function_stack())]
        for other in reversed(stack):
            if other is not self:
                _push_mode(other)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Every operation inside the module comes by here, so what has no parameter must be quick.
        kwargs = kwargs or {}
        if not self.awake:
            return func(*args, **kwargs)
        lineage = self.lineage
        if not (lineage.touches(args) or (kwargs and lineage.touches(kwargs.values()))):
            out = func(*args, **kwargs)
            if out.__class__ in _SEVERAL or (out.__class__ is Tensor and not out.requires_grad):
                lineage.note(out, (args, kwargs))
            elif out is None and func is Tensor.__setitem__:
                lineage.note(args[0], args)
            return out
        if self.around.strays:
            args, kwargs = lineage.with_aliases(args), lineage.with_aliases(kwargs)
        found = lineage.likes_in(args) + lineage.likes_in(kwargs.values())
        return self._on_parameters(Call(func, args, kwargs, found))

    def _on_parameters(self, call: Call) -> Any:
        lineage = self.lineage
        shaped = call.func in _SHAPED_LIKE and not lineage.is_like(call.args[0])
        if shaped or not torch.is_grad_enabled():
            out = call.func(*call.args, **call.kwargs)
            lineage.note(out, (call.args, call.kwargs))
            return out
        others = [t for t in tensors_in((call.args, call.kwargs)) if not lineage.is_like(t)]
        certain = any(t.requires_grad and not lineage.is_constant(t) for t in others)
        if not certain and not any(map(lineage.may_hold_samples, others)):
            return self._among(call)
        if isinstance(call.func, FunctionType) and call.func not in self._inside:
            return self._within(opened(call.func), call)
        if call.func in CELLS:
            return self._within(CELLS[call.func], call)
        try:
            return self.capturing.run(call, certain)
        except Shared:
            return self._among(call)

    def _among(self, call: Call) -> Any:
        """Runs an operation without samples, and keeps its graph, which is small."""
        # What the graph saves is not left to activation checkpointing to recompute.
        with torch.autograd.graph.saved_tensors_hooks(_held, _held):
            out = call.func(*call.args, **call.kwargs)
        self.lineage.adopt(call, out)
        return out

    def _within(self, body: Callable[..., Any], call: Call) -> Any:
        """Runs the operations that a function is made of, watched."""
        outer = self.capturing.attention
        if call.func is F.multi_head_attention_forward:
            query = call.args[0]
            self.capturing.attention = query.dim() == 3 and query.shape[1] == self.around.rows
        self._inside.append(call.func)
        try:
            with self:
                return body(*call.args, **call.kwargs)
        finally:
            self._inside.pop()
            self.capturing.attention = outer


def _held(tensor: Tensor) -> Tensor:
    # Without its graph: a result that its own node held would never be freed.
    return tensor.detach()
