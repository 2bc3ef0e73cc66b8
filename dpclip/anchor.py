"""Waiting for the gradient of a tensor, whatever is done to it later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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


def anchored(output: Tensor, shared: bool) -> Tensor:
    """Returns the output with a graph, so that its gradient will be asked for.

    Args:
        output: a tensor that does not require a gradient.
        shared: whether it lies in memory that something else uses.
    """
    if output._is_view() or shared:
        output = output.clone()
    anchor = torch.ones((), requires_grad=True)
    anchored: Tensor = _Anchor.apply(output, anchor)
    return anchored


def hookable(output: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (output to go on with, tensor to hook: the same numbers, maybe in another shape).

    A hook on a view is lost, without a word, when an activation in place follows; and the output
    of a linear layer on [B, T, d] is a view. A view that is stretched cannot be written to.
    """
    base = output._base
    if base is None or 0 in output.stride():
        return output, output
    if base.numel() == output.numel() and base.is_contiguous() and output.is_contiguous():
        return output, base
    output = output.clone()
    return output, output
