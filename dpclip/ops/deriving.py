"""What an operation without any sample in it makes of parameters: views, copies, functions."""

from __future__ import annotations

import torch
from torch import Tensor

from dpclip.ops.likes import Like
from dpclip.ops.table import Call

_CASTS = frozenset({
    Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.type,
    Tensor.type_as, Tensor.clone, Tensor.contiguous, torch.clone,
})  # fmt: skip
"""Copies with the same numbers in the same order; their gradient is the original's."""

_TURNS = frozenset({
    Tensor.transpose, torch.transpose, Tensor.permute, torch.permute, Tensor.movedim,
    torch.movedim, Tensor.swapaxes, Tensor.unsqueeze, torch.unsqueeze,
})  # fmt: skip
"""Views that do to one period of a repeated tensor what they do to the whole."""


def derived(call: Call, out: Tensor) -> Like:
    """Returns what a result of an operation on parameters and constants stands for.

    Args:
        call: the operation.
        out: its result, or one of several.
    """
    first = call.found[0]
    if len(call.found) > 1:
        return Like(out, out, False, call.origins)
    if out is first.tensor:
        return first
    if first.view and out._base is first.alias and first.alias.is_contiguous():
        return Like(out, out, True, first.origins)
    source = _same_numbers(call, first, out)
    if source is None:
        return Like(out, out, False, first.origins)
    return Like(out, source, first.view and source._base is first.alias, first.origins)


def _same_numbers(call: Call, of: Like, out: Tensor) -> Tensor | None:
    """Returns a tensor with the numbers of a copy, but which shows what is repeated.

    That is a view of an alias, where there is one, or with a stride of 0, or with one period of
    what is repeated.
    """
    if call.func in _CASTS:
        return of.source if out.shape == of.tensor.shape else None
    if not call.args or call.args[0] is not of.tensor:
        return None
    if call.func is Tensor.repeat:
        return _repeated(of.source, out) if of.source.shape == of.tensor.shape else None
    alike = of.source.shape == of.tensor.shape
    if of.source is of.tensor or not out._is_view() or not (alike or call.func in _TURNS):
        return None
    try:  # a view of a copy: take the same view of the original
        found = call.func(of.source, *call.args[1:], **call.kwargs)
    except RuntimeError:
        return None
    if not isinstance(found, Tensor) or found.dim() != out.dim():
        return None
    return found if found.shape == out.shape or not alike else None


def _repeated(source: Tensor, out: Tensor) -> Tensor:
    """Returns a tensor that is expanded where `out` repeats an axis of size 1."""
    wide = [1] * (out.dim() - source.dim()) + list(source.shape)
    sizes = [has if had == 1 else had for had, has in zip(wide, out.shape, strict=True)]
    return source.expand(sizes)
