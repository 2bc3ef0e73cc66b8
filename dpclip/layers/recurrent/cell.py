"""What a kind of recurrence computes: one pass forth through time, one pass back.

Index letters: T time steps, B samples, I inputs, H hidden units, P outputs (P = H except for an
LSTM with projections), K = k H rows of a weight for k gates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dpclip.layers.recurrent.sequences import Direction


class Weights(NamedTuple):
    """The weights of one layer in one direction, in PyTorch's order; gates stacked as there.

    Attributes:
        ih: [K, I].
        hh: [K, P].
        b_ih: [K], None without biases.
        b_hh: [K], None without biases.
        hr: [P, H], None without projections.
    """

    ih: Tensor
    hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    hr: Tensor | None = None

    @property
    def bias(self) -> Tensor | None:
        """[K], both biases in one, for gates that only see their sum."""
        return None if self.b_ih is None or self.b_hh is None else self.b_ih + self.b_hh


class Tape(NamedTuple):
    """What the backward pass needs of the forward pass.

    Attributes:
        x: [T, B, I].
        h: [B, P] the output before the first step.
        output: [T, B, P].
        gates: [T, B, ...] after their activations, in the kind's own order; None if the output
            says it all.
        cells: [T + 1, B, H], the cell before the first step among them; LSTM only.
    """

    x: Tensor
    h: Tensor
    output: Tensor
    gates: Tensor | None = None
    cells: Tensor | None = None


class Returned(NamedTuple):
    """Gradients of the loss by what a layer returned.

    Attributes:
        output: [T, B, P].
        h: [B, P] by the last output, returned a second time.
        c: [B, H] by the last cell; LSTM only.
    """

    output: Tensor
    h: Tensor
    c: Tensor | None = None


class Deltas(NamedTuple):
    """Gradients of the loss by what lies before a layer's activations and its first step.

    Attributes:
        ih: [T, B, K] by W_ih x_t + b_ih.
        hh: [T, B, K] by W_hh h_{t-1} + b_hh; the same object as `ih` where only their sum counts.
        h: [B, P] by the output before the first step.
        c: [B, H] by the cell before the first step; LSTM only.
        projection: what W_hr was multiplied by [T, B, H], and the gradient by the product
            [T, B, P]; with projections only.
    """

    ih: Tensor
    hh: Tensor
    h: Tensor
    c: Tensor | None = None
    projection: tuple[Tensor, Tensor] | None = None


class Cell(NamedTuple):
    """A kind of recurrence.

    Attributes:
        forward: (x [T, B, I], state before the first step, weights, direction) -> tape.
        backward: (tape, outputs before each step [T, B, P], weights, returned, direction)
            -> deltas.
    """

    forward: Callable[[Tensor, tuple[Tensor, ...], Weights, Direction], Tape]
    backward: Callable[[Tape, Tensor, Weights, Returned, Direction], Deltas]
