"""A model made ready for a look at the gradient rows of a few records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.doctor.dropout import without_dropout
from dpclip.doctor.row_sink import RowSink
from dpclip.doctor.undisturbed import gradients_aside, same_buffers, same_numbers
from dpclip.hooks import GroupHooks
from dpclip.looping import GroupLoop
from dpclip.swapping import swapped

_OWN = ("autograd_grad_sample_hooks", "forward")


class Subject(NamedTuple):
    """What is looked at.

    Attributes:
        hooks: those of the engine, on the model.
        loss: batch -> scalar loss, exactly as in training.
        collate: items -> batch.
        mean: whether the loss is a mean over records.
    """

    hooks: GroupHooks | GroupLoop
    loss: Callable[[Any], Tensor]
    collate: Callable[[list[Any]], Any]
    mean: bool

    @property
    def module(self) -> nn.Module:
        """The model."""
        module: nn.Module = self.hooks._module
        return module


class Prepared:
    """A model on parameters of its own, hooks and dropout off; see `prepared`.

    Args:
        subject: what is looked at.
        params: the trainable ones it computes with.
        double: whether in float64.
    """

    def __init__(self, subject: Subject, params: Sequence[nn.Parameter], double: bool) -> None:
        self.subject, self.params, self.double = subject, params, double

    def batch(self, items: Sequence[Any]) -> Any:
        """Returns the batch of these items, in the precision of the model."""
        batch = self.subject.collate(list(items))
        return pytree.tree_map(_widened, batch) if self.double else batch

    def loss(self, batch: Any) -> Tensor:
        """Returns the loss of a batch.

        Raises:
            ValueError: it is not one number.
        """
        loss = self.subject.loss(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss)
            raise ValueError(
                f"loss returned {found}: expected the scalar that backward() is called on."
            )
        return loss

    def alone(
        self, item: Any, seed: int | None = None
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """Returns (gradient of the record's loss for each parameter, buffers it has changed)."""
        with same_numbers(seed), same_buffers(self.subject.module) as changed:
            loss = self.loss(self.batch([item]))
            grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        pairs = zip(self.params, grads, strict=True)
        return [torch.zeros_like(p) if g is None else g for p, g in pairs], changed

    def run(self, batch: Any) -> None:
        """Runs the model, for its hooks."""
        with same_numbers(), same_buffers(self.subject.module):
            self.loss(batch)

    def beside(self, items: Sequence[Any]) -> tuple[Sequence[Tensor], float]:
        """Returns (rows [k, *shape] of each parameter, eps), in the scale of records alone."""
        subject, sink = self.subject, RowSink(len(items), self.params[0].device)
        first = _batch_first(subject.hooks)
        hooks = type(subject.hooks)(subject.module, sink, first)
        noted = subject.module.register_forward_pre_hook(sink.note_precision)
        try:
            with same_numbers(), same_buffers(subject.module):
                self.loss(self.batch(items)).backward()
                rows = sink.rows(self.params)
        finally:
            noted.remove()
            hooks.cleanup()
        factor = len(items) if subject.mean else 1
        return [row * factor for row in rows], sink.eps


@contextmanager
def prepared(subject: Subject, double: bool = False) -> Iterator[Prepared]:
    """Lets the model run on parameters of its own; afterwards everything is as it was.

    The engine's hooks are off, dropout is off, the rest is in training mode.

    Args:
        subject: what is looked at.
        double: True computes in float64.
    """
    module = subject.module
    every = dict(module.named_parameters(remove_duplicate=False))  # tied ones by all their names
    every = {n: p for n, p in every.items() if p.requires_grad or (double and _floats(p))}
    made = {p: _twin(p, double) for p in every.values()}
    trainable = [twin for twin in made.values() if twin.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(gradients_aside(made))
        stack.enter_context(_hooks_off(subject.hooks))
        stack.enter_context(swapped(module, {name: made[p] for name, p in every.items()}))
        stack.enter_context(same_buffers(module))
        stack.enter_context(without_dropout(module))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_double_by_default() if double else nullcontext())
        if double:
            _widen_buffers(module)
        yield Prepared(subject, trainable, double)


def _twin(param: nn.Parameter, double: bool) -> nn.Parameter:
    value = _widened(param.detach()) if double else param.detach()
    return nn.Parameter(value, param.requires_grad)


@contextmanager
def _hooks_off(hooks: GroupHooks | GroupLoop) -> Iterator[None]:
    """Lets the model run, and be hooked by others, as if it had no hooks of the engine's."""
    module = hooks._module
    own = _OWN if isinstance(hooks, GroupLoop) else _OWN[:1]
    kept = {name: vars(module).pop(name) for name in own if name in vars(module)}
    if isinstance(hooks, GroupHooks):
        hooks.disable_hooks()
    try:
        yield
    finally:
        vars(module).update(kept)
        if isinstance(hooks, GroupHooks):
            hooks.enable_hooks()


def _batch_first(hooks: GroupHooks | GroupLoop) -> bool:
    return hooks._axis == 0 if isinstance(hooks, GroupLoop) else bool(hooks.batch_first)


@contextmanager
def _double_by_default() -> Iterator[None]:
    """Lets tensors that a forward makes be float64 as well."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _widen_buffers(module: nn.Module) -> None:
    for holder in module.modules():
        for leaf, buffer in holder._buffers.items():
            if buffer is not None:
                holder._buffers[leaf] = _widened(buffer)


def _widened(value: Any) -> Any:
    return value.double() if _floats(value) else value


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
