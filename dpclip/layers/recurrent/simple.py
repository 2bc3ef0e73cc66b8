"""The simple recurrence of Elman 1990, as in torch.nn.RNN.

h_t = activation(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dpclip.layers.recurrent.cell import Cell, Deltas, Returned, Tape, Weights
from dpclip.layers.recurrent.sequences import Direction, projected, room, rows


class Activation(NamedTuple):
    """An activation whose slope can be told from what it returned.

    Attributes:
        apply: applies it in place.
        through: (gradient by the outcome, outcome, out): writes the gradient by the argument.
    """

    apply: Callable[[Tensor], object]
    through: Callable[[Tensor, Tensor, Tensor], object]


def _tanh_slope(grad: Tensor, outcome: Tensor, out: Tensor) -> None:
    torch.ops.aten.tanh_backward.grad_input(grad, outcome, grad_input=out)


def _relu_slope(grad: Tensor, outcome: Tensor, out: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(grad, outcome, 0, grad_input=out)


def simple(activation: Activation) -> Cell:
    """Returns the simple recurrence with an activation."""

    def forward(x: Tensor, start: tuple[Tensor, ...], w: Weights, direction: Direction) -> Tape:
        (h,) = start
        inputs, output = room(x, len(x), h.shape[1]), room(x, len(x), h.shape[1])
        tape, w_hh = Tape(x, h, output), w.hh.t()
        projected(x, w.ih, w.bias, rows(inputs))
        for given, h_next in direction.forth(inputs, output):
            torch.addmm(given, h, w_hh, out=h_next)
            activation.apply(h_next)
            h = h_next
        return tape

    def backward(
        tape: Tape, _before: Tensor, w: Weights, returned: Returned, direction: Direction
    ) -> Deltas:
        deltas, dh = torch.empty_like(tape.output), returned.h.clone()
        for d_out, h, delta in direction.back(returned.output, tape.output, deltas):
            activation.through(dh.add_(d_out), h, delta)
            torch.mm(delta, w.hh, out=dh)
        return Deltas(deltas, deltas, dh)

    return Cell(forward, backward)


TANH = Activation(torch.tanh_, _tanh_slope)
RELU = Activation(torch.relu_, _relu_slope)
