"""Capture: what each layer saw (A) and what came back (G), without any parameter gradient.

Extends Opacus' `GradSampleHooks`: the same registry of samplers, the same module that keeps its
state_dict; but the layers run on detached parameters, so autograd computes no parameter gradient,
and what a hook captures goes to the engine instead of to `p.grad_sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from dpclip.anchor import anchored, hookable
from dpclip.arrival import Arrival, Batch, Sink
from dpclip.host import OpsHost
from dpclip.native import refuse_native
from dpclip.ops import Capture, Watched
from dpclip.placement import Placement
from dpclip.precision import autocast_now
from dpclip.units import WHOLE, Saved, Unit, unit_of

_COPY = (
    "A copy of a private model runs with the hooks of the original. Copy it before make_private or "
    "after close(), or run the copy under torch.no_grad()."
)


class GroupHooks(GradSampleHooks):  # type: ignore[misc]
    """Hooks that hand group rows to a sink."""

    def __init__(self, module: nn.Module, sink: Sink, batch_first: bool = True) -> None:
        self._sink = sink
        self._autocast: torch.autocast | None = None  # as it was when the forward began
        self._units: list[Unit] = []
        self._open: list[Batch] = []
        self._placement = Placement(module, self._units, 0 if batch_first else 1, self._unhooked)
        self._ops: Capture | None = None
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
            self._units.append(unit_of(names[module], module))
        self._ops = self._capture_of_operations()
        for unit in self._units:
            before, after = self._make(unit) if self._ops is None else self._make_watched(unit)
            handles.append(unit.module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(
                unit.module.register_forward_hook(after, with_kwargs=True, always_call=True)
            )
        handles.append(
            self._module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
        )
        for param, name in self._names.items():
            refuse = refuse_native(self._module, name, lambda: bool(self.hooks_enabled))
            handles.append(param.register_hook(refuse))
        self.enable_hooks()

    def _capture_of_operations(self) -> Capture | None:
        """Returns what captures modules without a rule, None if there is no such module."""
        without = [_watched(unit) for unit in self._units if unit.form is None]
        others = [_watched(unit) for unit in self._units if unit.form is not None]
        declared = 0 if self.batch_first else 1
        return Capture(self._module, without, others, declared, self._unhooked) if without else None

    def active(self) -> bool:
        """Returns True in a forward pass that trains."""
        return bool(self.hooks_enabled and self._module.training and torch.is_grad_enabled())

    @contextmanager
    def _unhooked(self) -> Iterator[None]:
        """Lets modules run as if there were no hooks."""
        self.disable_hooks()
        try:
            with self._autocast or nullcontext():
                yield
        finally:
            self.enable_hooks()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.active():
            self._put_back()
            self._autocast = autocast_now(next(self._module.parameters()).device)
            batch = self._sink.begin_forward(self._rows_of(args, kwargs))
            self._open.append(batch)
            self._placement.enter((args, kwargs))
            if self._ops is not None:
                self._ops.enter((args, kwargs), batch.rows, self._host(batch))

    def _leave(self, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        if not self.hooks_enabled:  # the model runs inside a probe of itself
            return None
        batches = self._open[-1:]
        if self._ops is not None and batches:
            output = self._ops.leave(output)
        self._open.clear()
        if batches and output is not None:
            self._placement.check(batches[0].rows, output)
        self._placement.enter(None)
        return output

    def _put_back(self) -> None:
        """Undoes the swaps of a forward that was interrupted from the keyboard."""
        if self._ops is not None:
            self._ops.abandon()
        for unit in self._units:
            unit.aliases.reset()

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

    def _make(self, unit: Unit) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Returns the hooks (before, after) of a module with a rule."""
        aliases = unit.aliases

        def before(module: nn.Module, _args: Any, _kwargs: Any) -> None:
            aliases.enter(self.active() and _is_original(unit, module))

        def after(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if not aliases.leave() or output is None:
                return None
            return self._capture(unit, self._batch(args, kwargs), Saved(args, kwargs), output)

        return before, after

    def _make_watched(self, unit: Unit) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Returns the hooks of a module in a model of which some modules have no rule.

        Those are captured at their operations. One with a rule is too if it is called on what is
        made of their parameters alone, before there are samples.
        """
        aliases, ops, watched = unit.aliases, self._ops, _watched(unit)
        assert ops is not None
        calls: list[Batch | None] = []  # those that run; None for one that is not captured

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if not (self.active() and _is_original(unit, module)):
                aliases.enter(False)
                calls.append(None)
                return None
            batch = self._batch(args, kwargs)
            always, host = unit.form is None, self._host(batch)
            begun = ops.begin(watched, always, args, kwargs, batch.rows, host)
            aliases.enter(not begun.watched)
            calls.append(batch)
            return begun.args, begun.kwargs

        def after(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            batch, by_rule = calls.pop() if calls else None, aliases.leave()
            if batch is None:
                return None
            try:
                if by_rule and output is not None:
                    output = self._capture(unit, batch, Saved(args, kwargs), output)
            finally:
                output = ops.end(output)
            return output

        return before, after

    def _batch(self, args: Any, kwargs: Any) -> Batch:
        """Returns the forward that is running; a submodule may be called without the model."""
        return (
            self._open[-1] if self._open else self._sink.begin_forward(self._rows_of(args, kwargs))
        )

    def _host(self, batch: Batch) -> OpsHost:
        return OpsHost(self, self._sink, batch)

    def _capture(self, unit: Unit, batch: Batch, saved: Saved, output: Any) -> Any:
        """Returns the output, each of its tensors with a hook that waits for its gradient."""
        number, turn = 0, self._placement.turn(unit)

        def tap(value: Any) -> Any:
            nonlocal number
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return value
            if not value.requires_grad:
                value = anchored(value, _shares(value, saved, unit))
            saved.look(unit, value)
            value, axis = self._placement.settle(unit, batch.rows, saved, turn, number, value)
            value, hooked = hookable(value)
            arrival = Arrival(self, self._sink, unit, batch, saved, axis, value.shape)
            hooked.register_hook(arrival)
            number += 1
            return value

        tapped = tap(output) if isinstance(output, Tensor) else pytree.tree_map(tap, output)
        if not number:
            raise RuntimeError(
                f"{unit.label} returned a {type(output).__name__} in which no floating-point "
                "tensor was found, so its gradient cannot be captured. Return tensors, or tuples, "
                "lists or dicts of tensors."
            )
        return tapped


def _is_original(unit: Unit, module: nn.Module) -> bool:
    """Returns False for the copy of a module that evaluates.

    Raises:
        RuntimeError: a copy that trains, whose gradients the original would get.
    """
    if module is unit.module:
        return True
    if module.training:
        raise RuntimeError(_COPY)
    return False


def _watched(unit: Unit) -> Watched:
    params = {name: unit.module.get_parameter(name) for name in unit.params}
    return Watched(unit.name, unit.label, unit.module, params)


def _shares(value: Tensor, saved: Saved, unit: Unit) -> bool:
    """Returns True for an output that lies in the memory of an input or a parameter."""
    where = value.untyped_storage().data_ptr()
    weights = (unit.module.get_parameter(name) for name in unit.params)
    return any(t.untyped_storage().data_ptr() == where for t in (*saved.tensors, *weights))
