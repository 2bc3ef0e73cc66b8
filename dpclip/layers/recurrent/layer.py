"""One recurrent layer in one direction: backpropagation through time without weight gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dpclip.layers.recurrent.cell import Cell, Deltas, Returned, Tape, Weights
from dpclip.layers.recurrent.sequences import Direction, room, rows

Capture = Callable[[int, Tensor | None, Tensor], None]
"""Told in the backward pass, once for each weight: which one, a [B, T, i] and g [B, T, o].

The gradient of a matrix for any set of samples is the sum over them and over time of g a^T. For
a bias a is None and the gradient is the sum of g. Weights with the same g get the same object.
"""


class Plan(NamedTuple):
    """How a layer computes and whom it tells.

    Attributes:
        cell: the kind of recurrence.
        direction: which way it walks.
        capture: told about the layer's own weights, counted from 0.
    """

    cell: Cell
    direction: Direction
    capture: Capture


def layer(plan: Plan, start: tuple[Tensor, ...], weights: Weights, x: Tensor) -> tuple[Tensor, ...]:
    """Returns outputs [T, B, P], the last one [B, P] and, of an LSTM, the last cell [B, H].

    Args:
        plan: how to compute.
        start: h [B, P] and, for an LSTM, c [B, H] before the first step.
        weights: detached; they get no gradient.
        x: [T, B, I].
    """
    # Keeps the backward pass alive where neither x nor the state needs a gradient.
    anchor = torch.ones((), device=x.device, requires_grad=True)
    h, c = start if len(start) == 2 else (*start, None)
    outputs: tuple[Tensor, ...] = _Layer.apply(anchor, plan, x, h, c, *weights)
    return outputs


class _Layer(torch.autograd.Function):
    """Saves the tape and the weights, so that a change in place of any of them raises."""

    @staticmethod
    def forward(
        ctx: Any,
        _anchor: Tensor,
        plan: Plan,
        x: Tensor,
        h: Tensor,
        c: Tensor | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        weights = Weights(*tensors)  # type: ignore[arg-type]
        with torch.autocast(x.device.type, enabled=False):
            tape = plan.cell.forward(x, (h,) if c is None else (h, c), weights, plan.direction)
        ctx.plan = plan
        ctx.save_for_backward(*tape, *weights)
        states = [tape.output] if tape.cells is None else [tape.output, tape.cells]
        # Copies: a state that shared memory with the outputs would change along with them.
        return tape.output, *(plan.direction.last(s).clone() for s in states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, kept, plan = ctx.saved_tensors, len(Tape._fields), ctx.plan
        tape, weights = Tape(*saved[:kept]), Weights(*saved[kept:])
        before = plan.direction.with_start(tape.h, tape.output)
        with torch.autocast(tape.x.device.type, enabled=False):
            deltas = plan.cell.backward(tape, before, weights, Returned(*grads), plan.direction)
            dx = _by_input(tape.x, deltas.ih, weights.ih) if ctx.needs_input_grad[2] else None
        _tell(plan.capture, tape.x, before, deltas, weights)
        return None, None, dx, deltas.h, deltas.c, *[None] * len(weights)


def _by_input(x: Tensor, deltas: Tensor, w_ih: Tensor) -> Tensor:
    """Returns [T, B, I], the gradient by x from that by its products with W_ih [T, B, K]."""
    dx = room(deltas, len(x), x.shape[2])
    torch.mm(rows(deltas), w_ih, out=rows(dx))
    return dx


def _tell(capture: Capture, x: Tensor, before: Tensor, deltas: Deltas, weights: Weights) -> None:
    """Hands over what each weight saw, samples first."""
    g_ih = deltas.ih.transpose(0, 1)
    g_hh = g_ih if deltas.hh is deltas.ih else deltas.hh.transpose(0, 1)
    capture(0, x.detach().transpose(0, 1), g_ih)
    capture(1, before.transpose(0, 1), g_hh)
    following = 2
    if weights.b_ih is not None:
        capture(2, None, g_ih)
        capture(3, None, g_hh)
        following = 4
    if deltas.projection is not None:
        a, g = deltas.projection
        capture(following, a.transpose(0, 1), g.transpose(0, 1))
