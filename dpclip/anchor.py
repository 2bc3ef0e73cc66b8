"""Making a tensor without a graph take part in the backward."""

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
