"""Sequences [T, B, f] in memory of either order, and the two directions to walk through them.

A sequence is dense with time outermost or with samples outermost. What is made for a layer takes
the order of the layer's input, so that one matrix product covers all time steps without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


def room(like: Tensor, length: int, width: int) -> Tensor:
    """Returns an uninitialized sequence [length, B, width] in the memory order of `like`."""
    shape = (length, like.shape[1], width)
    if _samples_outermost(like):
        # Not a view: autograd refuses to follow changes in place of views a function returned.
        return like.new_empty_strided(shape, (width, length * width, 1))
    return like.new_empty(shape)


def rows(sequence: Tensor) -> Tensor:
    """Returns [T * B, f] in memory order; a view of what `room` made."""
    outermost = sequence.transpose(0, 1) if _samples_outermost(sequence) else sequence
    return outermost.flatten(0, 1)


def projected(sequence: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Returns `out` [T * B, o]: the rows of the sequence times weight [o, f] transposed."""
    if bias is None:
        return torch.mm(rows(sequence), weight.t(), out=out)
    return torch.addmm(bias, rows(sequence), weight.t(), out=out)


def _samples_outermost(sequence: Tensor) -> bool:
    return sequence.stride(0) < sequence.stride(1)


class Direction(NamedTuple):
    """Which way a layer walks through time.

    Attributes:
        reverse: True if it starts at the last time step.
    """

    reverse: bool

    def forth(self, *sequences: Tensor) -> Iterable[tuple[Tensor, ...]]:
        """Returns the time steps [B, f] of each sequence in the order of the forward pass."""
        steps = list(zip(*(sequence.unbind(0) for sequence in sequences), strict=True))
        return reversed(steps) if self.reverse else steps

    def back(self, *sequences: Tensor) -> Iterable[tuple[Tensor, ...]]:
        """Returns the time steps [B, f] of each sequence in the order of the backward pass."""
        return Direction(not self.reverse).forth(*sequences)

    def first(self, sequence: Tensor) -> Tensor:
        """Returns [B, f], the step where the forward pass starts."""
        return sequence[-1] if self.reverse else sequence[0]

    def last(self, sequence: Tensor) -> Tensor:
        """Returns [B, f], the step where the forward pass ends."""
        return sequence[0] if self.reverse else sequence[-1]

    def before_and_after(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Returns views [T, B, f] of T + 1 states: before each step and after it."""
        early, late = states[:-1], states[1:]
        return (late, early) if self.reverse else (early, late)

    def with_start(self, start: Tensor, states: Tensor) -> Tensor:
        """Returns [T, B, f], the states before each step, from those after each.

        Args:
            start: [B, f] the state before the first step.
            states: [T, B, f].
        """
        shifted = torch.empty_like(states)
        inner, outer = self.before_and_after(shifted)[1], self.before_and_after(states)[0]
        inner.copy_(outer)
        self.first(shifted).copy_(start)
        return shifted
