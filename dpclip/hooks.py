"""Capture: what each layer saw (A) and what came back (G), without any parameter gradient.

Extends Opacus' `GradSampleHooks`: the same registry of samplers, the same module that keeps its
state_dict; but the layers run on detached parameters, so autograd computes no parameter gradient,
and what a hook captures goes to the engine instead of to `p.grad_sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.layers.dp_rnn import RNNLinear
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from dpclip.groups import Groups
from dpclip.layers import Rule, rule_for
from dpclip.layers.functional import (
    Call,
    looped_rows,
    put,
    swap,
    vmapped_rows,
)

_WHOLE = (nn.MultiheadAttention,)
"""Modules that read their children's weights without calling them: captured as one."""


class _Saved:
    """The inputs of one call, detached, with a check that nobody changed them since."""

    def __init__(self, call: tuple[Any, Any]) -> None:
        leaves, self.spec = pytree.tree_flatten(call)
        self.leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._versions = [leaf._version for leaf in self.tensors]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def expand(self, axis: int, rows: int, *, new: bool = False) -> None:
        """Gives every tensor a batch axis of `rows` where it has one of size 1, or a new one."""
        for i, leaf in enumerate(self.leaves):
            if not isinstance(leaf, Tensor):
                continue
            if new:
                self.leaves[i] = leaf.expand(rows, *leaf.shape)
            elif leaf.dim() > axis and leaf.shape[axis] == 1:
                sizes = list(leaf.shape)
                sizes[axis] = rows
                self.leaves[i] = leaf.expand(sizes)

    def check(self, unit: Unit) -> None:
        """Raises RuntimeError if an input was modified in place after the forward."""
        if [leaf._version for leaf in self.tensors] != self._versions:
            raise RuntimeError(
                f"An input of {unit.label} was changed in place between forward and backward, so "
                "its gradient cannot be formed. Use the out-of-place operation there."
            )


@dataclass
class Unit:
    """One module whose parameters are captured together.

    Attributes:
        name: qualified name in the model.
        module: the module.
        params: names of its captured parameters, relative to it.
        rule: how its rows are formed: "dpclip", "opacus", "vmap" or "loop".
        form: the rule itself, None for a module that is run again.
        axis: its batch axis as learned from an unambiguous call, else None.
        unbatched: True once an input without a batch axis was seen (positions, say).
    """

    name: str
    module: nn.Module
    params: tuple[str, ...]
    rule: str
    form: Rule | None
    axis: int | None = None
    unbatched: bool = False
    swaps: list[list[tuple[nn.Module, str, Tensor]]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.name or 'the model itself'} ({type(self.module).__name__})"


class Batch(Protocol):
    """What a sink knows of one forward pass."""

    @property
    def rows(self) -> int:
        """B."""


class Sink(Protocol):
    """Who receives what the hooks capture."""

    def begin_forward(self, rows: int) -> Batch:
        """Called when a forward with gradients starts; returns the batch it belongs to."""

    def begin_backward(self, batch: Any) -> None:
        """Called with that batch before anything captured in it is handed over."""

    def groups(self) -> Groups:
        """Returns the groups of the batch whose backward is running."""

    def collect(self, rows: dict[nn.Parameter, Tensor]) -> None:
        """Takes group rows [G, ...], of each use of each layer."""

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
        if not (own and isinstance(module, _WHOLE)):
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
            unit = _unit(names[module], module)
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

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._active():
            self._open.append(self._sink.begin_forward(self._rows_of(args, kwargs)))

    def _leave(self, _module: nn.Module, _args: Any, _kwargs: Any, _output: Any) -> None:
        self._open.clear()

    def _rows_of(self, args: Any, kwargs: Any) -> int:
        axis = 0 if self.batch_first else 1
        for leaf in pytree.tree_leaves((args, kwargs)):
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
            for holder, leaf, original in reversed(undo):
                put(holder, leaf, original)
            if not undo or output is None:
                return None
            # A submodule may be called without the model around it.
            batch = (
                self._open[-1]
                if self._open
                else self._sink.begin_forward(self._rows_of(args, kwargs))
            )
            return self._capture(unit, batch, _Saved((args, kwargs)), output)

        return before, after

    def _capture(self, unit: Unit, batch: Batch, saved: _Saved, output: Any) -> Any:
        """Returns the output, each of its tensors with a hook that waits for its gradient."""
        shared = {t.untyped_storage().data_ptr() for t in saved.tensors}
        seen: list[Tensor] = []
        gouts: dict[int, Tensor] = {}

        def tap(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return value
            if not value.requires_grad:
                if value._is_view() or value.untyped_storage().data_ptr() in shared:
                    value = value.clone()
                value = _Anchor.apply(value, self._anchor)
            value = self._with_batch_axis(unit, batch.rows, saved, value)
            number = len(seen)
            seen.append(value.detach())
            value.register_hook(lambda grad: arrive(number, grad.detach()))
            return value

        def arrive(number: int, grad: Tensor) -> None:
            if not self.hooks_enabled:
                return
            self._sink.begin_backward(batch)
            saved.check(unit)
            if unit.form is not None:
                with torch.no_grad():
                    self._sink.collect(self._formed(unit, unit.form, batch.rows, saved, grad))
                return
            if not gouts:
                self._sink.defer(lambda: self._again(unit, batch.rows, saved, seen, gouts))
            gouts[number] = grad if number not in gouts else gouts[number] + grad

        return pytree.tree_map(tap, output)

    def _axis(self, unit: Unit, rows: int, tensor: Tensor) -> int | None:
        """Returns the axis of size B among the first two: the learned, the declared, the other."""
        declared = 0 if self.batch_first or isinstance(unit.module, RNNLinear) else 1
        found = [
            a for a in (declared, 1 - declared) if tensor.dim() > a and tensor.shape[a] == rows
        ]
        if len(found) == 1:
            return found[0]
        return unit.axis if unit.axis in found else next(iter(found), None)

    def _with_batch_axis(self, unit: Unit, rows: int, saved: _Saved, value: Tensor) -> Tensor:
        """Returns the output with a batch axis: one computed once for all samples is expanded.

        Positions are embedded as [T] or [1, T] and broadcast over the batch; their gradient comes
        back summed unless the batch axis is there before.

        Raises:
            RuntimeError: an input of positions 0..B-1 cannot be told from one id for each sample.
        """
        axis = 0 if self.batch_first else 1
        ids = saved.tensors[0] if isinstance(unit.module, nn.Embedding) else None
        if ids is not None and ids.dim() == 1:
            if not unit.unbatched and rows > 1 and len(ids) == rows:
                if torch.equal(ids, torch.arange(rows, device=ids.device)):
                    raise RuntimeError(
                        f"{unit.label} got the ids 0..{rows - 1} in a batch of {rows}: positions "
                        "and samples cannot be told apart. Give positions a leading axis of 1."
                    )
                return value
            if rows > 1 and (unit.unbatched or len(ids) != rows):
                unit.unbatched = True
                saved.expand(0, rows, new=True)
                return value.expand(rows, *value.shape)
            return value
        if rows > 1 and value.dim() > axis and value.shape[axis] == 1:
            sizes = list(value.shape)
            sizes[axis] = rows
            saved.expand(axis, rows)
            return value.expand(sizes)
        found = self._axis(unit, rows, value)
        if found is None:
            raise RuntimeError(
                f"{unit.label} returned a tensor of shape {tuple(value.shape)}, in which no axis "
                f"has the batch's {rows} samples. Keep the batch on axis {axis} of every layer."
            )
        if tuple(value.shape[:2]).count(rows) == 1:
            unit.axis = found
        return value

    def _formed(
        self, unit: Unit, form: Rule, rows: int, saved: _Saved, gout: Tensor
    ) -> dict[nn.Parameter, Tensor]:
        axis = self._axis(unit, rows, gout)
        assert axis is not None
        inputs = [
            t.movedim(axis, 0) if t.dim() > axis and t.shape[axis] == rows else t
            for t in saved.tensors
        ]
        return form(unit.module, inputs, gout.movedim(axis, 0), self._sink.groups())

    def _again(
        self, unit: Unit, rows: int, saved: _Saved, seen: list[Tensor], gouts: dict[int, Tensor]
    ) -> None:
        """Forms the rows of a module without a sampler by running it again."""
        saved.check(unit)
        used = sorted(gouts)
        out_axes = [self._axis(unit, rows, seen[i]) for i in used]
        call = Call(
            module=unit.module,
            names=unit.params,
            leaves=saved.leaves,
            spec=saved.spec,
            used=used,
            outputs=[seen[i] for i in used],
            gouts=[gouts[i] for i in used],
            in_axes=[
                self._axis(unit, rows, x) if isinstance(x, Tensor) else None for x in saved.leaves
            ],
            out_axes=[axis for axis in out_axes if axis is not None],
        )
        self.disable_hooks()
        try:
            if unit.rule == "vmap":
                try:
                    self._sink.collect(vmapped_rows(call, self._sink.groups()))
                    return
                except (RuntimeError, ValueError):
                    unit.rule = "loop"  # not every operation can be vectorized; plan() shows it
            self._sink.collect(looped_rows(call, self._sink.groups()))
        finally:
            self.enable_hooks()


def _unit(name: str, module: nn.Module) -> Unit:
    whole = isinstance(module, _WHOLE)
    params = tuple(n for n, p in module.named_parameters(recurse=whole) if p.requires_grad)
    found = None if whole else rule_for(module)
    if found is None:
        return Unit(name, module, params, "vmap", None)
    return Unit(name, module, params, found[0], found[1])
