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


def derived(call: Call, out: Tensor) -> Like:
    """Returns what a result of an operation on parameters and constants stands for.

    Args:
        call: the operation.
        out: its result, or one of several.
    """
    first = call.found[0]
    function = Like(out, out, False, call.origins)
    if len(call.found) > 1 or not first.view or not first.alias.is_contiguous():
        return function
    if out is first.tensor:
        return first
    if out._is_view() and out._base is first.alias:
        return Like(out, out, True, first.origins)
    source = _same_view(call, first, out)
    return function if source is None else Like(out, source, True, first.origins)


def _same_view(call: Call, of: Like, out: Tensor) -> Tensor | None:
    """Returns the view of the alias whose numbers are copied in `out`, if there is one."""
    if call.func in _CASTS:
        return of.source if out.shape == of.source.shape else None
    if not call.args or call.args[0] is not of.tensor:
        return None
    if call.func is Tensor.repeat:
        return _repeated(of.source, out)
    if of.source is of.tensor or not out._is_view():
        return None
    try:  # a view of a copy: take the same view of the original
        found = call.func(of.source, *call.args[1:], **call.kwargs)
    except RuntimeError:
        return None
    if isinstance(found, Tensor) and found._base is of.alias and found.shape == out.shape:
        return found
    return None


def _repeated(source: Tensor, out: Tensor) -> Tensor | None:
    """Returns an expanded view with the numbers of a copy that repeats axes of size 1."""
    wide = [1] * (out.dim() - source.dim()) + list(source.shape)
    if any(had not in {1, has} for had, has in zip(wide, out.shape, strict=True)):
        return None
    return source.expand(out.shape)
