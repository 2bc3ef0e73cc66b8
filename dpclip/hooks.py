"""Capture: what each layer saw (A) and what came back (G), without any parameter gradient.

Extends Opacus' `GradSampleHooks`: the same registry of samplers, the same module that keeps its
state_dict; but the layers run on detached parameters, so autograd computes no parameter gradient,
and what a hook captures goes to the engine instead of to `p.grad_sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from dpclip.axes import input_axes
from dpclip.groups import Groups
from dpclip.layers import Rule
from dpclip.layers.functional import Call, looped_rows, put, swap, vmapped_rows
from dpclip.parts import Formed, Part
from dpclip.placement import Placement
from dpclip.units import WHOLE, Saved, Unit, unit_of


class Batch(Protocol):
    """What a sink knows of one forward pass."""

    @property
    def rows(self) -> int:
        """B."""


@dataclass
class Outputs:
    """The outputs of one call of a unit, and what came back through them.

    Attributes:
        tensors: the outputs, without their graph; copies for a unit that is run again and
            compared, since an activation in place may follow.
        axes: their batch axes.
        autocast: (device type, dtype, enabled) while they were computed.
        gouts: output number -> gradient of the loss.
        task: the backward pass that `gouts` are of.
    """

    tensors: list[Tensor] = field(default_factory=list)
    axes: list[int] = field(default_factory=list)
    autocast: tuple[str, torch.dtype, bool] = ("cpu", torch.bfloat16, False)
    gouts: dict[int, Tensor] = field(default_factory=dict)
    task: int = -1


class Sink(Protocol):
    """Who receives what the hooks capture."""

    def begin_forward(self, rows: int) -> Batch:
        """Called when a forward with gradients starts; returns the batch it belongs to."""

    def begin_backward(self, batch: Any) -> None:
        """Called with that batch before anything captured in it is handed over."""

    def groups(self) -> Groups:
        """Returns the groups of the batch whose backward is running."""

    def collect(self, parts: dict[nn.Parameter, Part]) -> None:
        """Takes the group gradients of each use of each layer."""

    def defer(self, work: Callable[[], None]) -> None:
        """Takes work to be done when the backward has ended."""


class _Anchor(torch.autograd.Function):
    """Makes an output without a graph require a gradient.

    In place, so nothing is copied; and not as a leaf, so an in-place activation may follow.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class GroupHooks(GradSampleHooks):  # type: ignore[misc]
    """Hooks that hand group rows to a sink."""

    def __init__(self, module: nn.Module, sink: Sink, batch_first: bool = True) -> None:
        self._sink = sink
        self._units: list[Unit] = []
        self._open: list[Batch] = []
        self._placement = Placement(module, self._units, 0 if batch_first else 1, self._unhooked)
        self._anchor = torch.ones((), requires_grad=True)
        self._names = {p: n for n, p in module.named_parameters() if p.requires_grad}
        super().__init__(module, batch_first=batch_first, loss_reduction="mean")

    @property
    def units(self) -> list[Unit]:
        """The captured modules, in order of definition."""
        return self._units

    @classmethod
    def validate(cls, module: nn.Module, *, strict: bool = False) -> list[NotImplementedError]:
        """Returns no errors: what cannot be grouped is refused by `dpclip.refusals`."""
        return []

    def iterate_submodules(self, module: nn.Module) -> Iterable[nn.Module]:
        """Yields every module that holds trainable parameters, the children of unknown ones too."""
        own = any(p.requires_grad for p in module.parameters(recurse=False))
        if own:
            yield module
        if not (own and isinstance(module, WHOLE)):
            for child in module.children():
                yield from self.iterate_submodules(child)

    def add_hooks(
        self,
        *,
        loss_reduction: str = "mean",
        batch_first: bool = True,
        force_functorch: bool = False,
    ) -> None:
        """Attaches the hooks; called by Opacus' constructor."""
        if hasattr(self._module, "autograd_grad_sample_hooks"):
            raise ValueError(
                "The model already has grad-sample hooks. Call close() on the engine (or "
                "remove_hooks() on the Opacus wrapper) that attached them first."
            )
        handles: list[RemovableHandle] = []
        self._module.autograd_grad_sample_hooks = handles
        self.autograd_grad_sample_hooks = handles
        handles.append(
            self._module.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
        )
        names = {m: n for n, m in self._module.named_modules()}
        for module in dict.fromkeys(self.iterate_submodules(self._module)):
            unit = unit_of(names[module], module)
            self._units.append(unit)
            before, after = self._make(unit)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
        handles.append(
            self._module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
        )
        for param, name in self._names.items():
            handles.append(param.register_hook(self._refuse(name)))
        self.enable_hooks()

    def _active(self) -> bool:
        return bool(self.hooks_enabled and self._module.training and torch.is_grad_enabled())

    @contextmanager
    def _unhooked(self) -> Iterator[None]:
        """Lets modules run as if there were no hooks."""
        self.disable_hooks()
        try:
            yield
        finally:
            self.enable_hooks()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._active():
            self._put_back()
            self._open.append(self._sink.begin_forward(self._rows_of(args, kwargs)))
            self._placement.enter((args, kwargs))

    def _leave(self, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        if not self.hooks_enabled:  # the model runs inside a probe of itself
            return
        batches = self._open[-1:]
        self._open.clear()
        if batches and output is not None:
            self._placement.check(batches[0].rows, output)
        self._placement.enter(None)

    def _put_back(self) -> None:
        """Undoes the swaps of a forward that was interrupted from the keyboard."""
        for unit in self._units:
            while unit.swaps:
                _undo(unit.swaps.pop())

    def remove_hooks(self) -> None:
        """Removes every hook and leaves the model as it was."""
        self._put_back()
        super().remove_hooks()

    def _rows_of(self, args: Any, kwargs: Any) -> int:
        axis = 0 if self.batch_first else 1
        simple = args and isinstance(args[0], Tensor) and args[0].dim() > axis
        for leaf in args[:1] if simple else pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.dim() > axis:
                return int(leaf.shape[axis])
        raise RuntimeError(
            f"No input tensor with a batch axis {axis} reached the model, so the number of samples "
            "is unknown. Pass the batch as a tensor argument."
        )

    def _refuse(self, name: str) -> Callable[[Tensor], None]:
        def raise_native(_grad: Tensor) -> None:
            if not self.hooks_enabled:
                return
            if not self._module.training:
                raise RuntimeError(
                    f"backward() reached parameter {name!r} of a model in eval mode, where nothing "
                    "is captured. Call model.train() before the forward pass."
                )
            raise RuntimeError(
                f"Parameter {name!r} got a gradient that no layer captured: its module's forward "
                "was not called, the weight was used as a plain tensor. Call the module itself, or "
                "freeze the parameter with requires_grad_(False)."
            )

        return raise_native

    def _make(self, unit: Unit) -> tuple[Callable[..., None], Callable[..., Any]]:
        def before(module: nn.Module, _args: Any, _kwargs: Any) -> None:
            names = unit.params if self._active() else ()
            unit.swaps.append([swap(module, n, module.get_parameter(n).detach()) for n in names])

        def after(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            undo = unit.swaps.pop() if unit.swaps else []
            _undo(undo)
            if not undo or output is None:
                return None
            # A submodule may be called without the model around it.
            batch = (
                self._open[-1]
                if self._open
                else self._sink.begin_forward(self._rows_of(args, kwargs))
            )
            return self._capture(unit, batch, Saved(args, kwargs), output)

        return before, after

    def _capture(self, unit: Unit, batch: Batch, saved: Saved, output: Any) -> Any:
        """Returns the output, each of its tensors with a hook that waits for its gradient."""
        outs = Outputs()

        def tap(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return value
            if not value.requires_grad:
                if value._is_view() or _shares(value, saved, unit):
                    value = value.clone()
                value = _Anchor.apply(value, self._anchor)
            if not outs.tensors:
                outs.autocast = _autocast(value.device.type)
            number = len(outs.tensors)
            value, axis = self._placement.settle(unit, batch.rows, saved, number, value)
            kept = value.detach()
            outs.tensors.append(kept if unit.form is not None else kept.clone())
            outs.axes.append(axis)
            value.register_hook(lambda grad: self._arrive(unit, batch, saved, outs, number, grad))
            return value

        tapped = tap(output) if isinstance(output, Tensor) else pytree.tree_map(tap, output)
        if not outs.tensors:
            raise RuntimeError(
                f"{unit.label} returned a {type(output).__name__} in which no floating-point "
                "tensor was found, so its gradient cannot be captured. Return tensors, or tuples, "
                "lists or dicts of tensors."
            )
        return tapped

    def _arrive(
        self, unit: Unit, batch: Batch, saved: Saved, outs: Outputs, number: int, grad: Tensor
    ) -> None:
        """Takes the gradient of one output."""
        if not self.hooks_enabled:
            return
        if grad.dtype == torch.float16:
            raise RuntimeError(
                f"{unit.label} got a float16 gradient. Its range needs loss scaling (GradScaler), "
                "which would scale the rows before they are clipped. Use bfloat16."
            )
        self._sink.begin_backward(batch)
        saved.check(unit)
        groups = self._sink.groups()
        if not groups.count:  # padding only
            return
        grad = grad.detach()
        if unit.form is not None:
            with torch.no_grad():
                self._sink.collect(
                    _formed(unit, unit.form, batch.rows, saved, outs.axes[number], grad, groups)
                )
            return
        task = torch._C._current_graph_task_id()
        if outs.task != task:  # the first in this backward, whatever an earlier one has left
            outs.task, outs.gouts = task, {}
            self._sink.defer(lambda: self._again(unit, batch.rows, saved, outs))
        outs.gouts[number] = grad

    def _again(self, unit: Unit, rows: int, saved: Saved, outs: Outputs) -> None:
        """Forms the rows of a module without a sampler by running it again."""
        saved.check(unit)
        used = sorted(outs.gouts)
        declared = 0 if self.batch_first else 1
        call = Call(
            module=unit.module,
            names=unit.params,
            leaves=saved.leaves,
            spec=saved.spec,
            used=used,
            outputs=[outs.tensors[i] for i in used],
            gouts=[outs.gouts[i] for i in used],
            in_axes=input_axes(unit, saved, outs.axes[0], rows, declared),
            out_axes=[outs.axes[i] for i in used],
            autocast=outs.autocast,
        )
        outs.gouts = {}
        with self._unhooked():
            if unit.rule == "vmap":
                try:
                    self._collect_rows(vmapped_rows(call, self._sink.groups()))
                    return
                except (RuntimeError, ValueError):
                    unit.rule = "loop"  # not every operation can be vectorized; plan() shows it
            self._collect_rows(looped_rows(call, self._sink.groups()))


    def _collect_rows(self, rows: dict[nn.Parameter, Tensor]) -> None:
        self._sink.collect({param: Formed(row) for param, row in rows.items()})


def _formed(
    unit: Unit, form: Rule, rows: int, saved: Saved, axis: int, gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    inputs = [
        t.movedim(axis, 0) if t.dim() > axis and t.shape[axis] == rows else t for t in saved.tensors
    ]
    return form(unit.module, inputs, gout.movedim(axis, 0), groups)


def _autocast(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _undo(swapped: list[tuple[nn.Module, str, Tensor]]) -> None:
    for holder, leaf, original in reversed(swapped):
        put(holder, leaf, original)


def _shares(value: Tensor, saved: Saved, unit: Unit) -> bool:
    """Returns True for an output that lies in the memory of an input or a parameter."""
    where = value.untyped_storage().data_ptr()
    weights = (unit.module.get_parameter(name) for name in unit.params)
    return any(t.untyped_storage().data_ptr() == where for t in (*saved.tensors, *weights))
