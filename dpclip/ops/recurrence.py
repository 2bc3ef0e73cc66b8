"""torch.lstm, gru, rnn_tanh and rnn_relu, computed by layers that tell what their weights saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpclip.groups import segment_sum
from dpclip.layers.recurrent import Capture, recur
from dpclip.ops.places import Where
from dpclip.ops.table import Call
from dpclip.parts import Formed, Outer, Part

KINDS: dict[Any, str] = {
    torch.lstm: "lstm",
    torch.gru: "gru",
    torch.rnn_tanh: "rnn_tanh",
    torch.rnn_relu: "rnn_relu",
}


class Recurrence(NamedTuple):
    """The arguments of one call.

    Attributes:
        kind: the name of the function.
        input: [T, B, I], or [B, T, I] with batch_first.
        hx: the states [layers * directions, B, H].
        weights: in PyTorch's order.
        has_biases, num_layers, dropout, train, bidirectional, batch_first: as torch has them.
    """

    kind: str
    input: Tensor
    hx: Any
    weights: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool

    @property
    def axis(self) -> int:
        """The axis of the input that holds the samples."""
        return 0 if self.batch_first else 1

    def run(self, weights: Sequence[Tensor], capture: Capture) -> tuple[Tensor, ...]:
        """Returns what the function returns; `capture` is told what the weights saw."""
        return recur(
            self.kind,
            self.input,
            self.hx,
            weights,
            has_biases=self.has_biases,
            num_layers=self.num_layers,
            dropout=self.dropout,
            train=self.train,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            capture=capture,
        )


def recurrence(call: Call, label: str) -> Recurrence:
    """Returns the arguments of a call of a function in `KINDS`.

    Raises:
        RuntimeError: a packed sequence.
    """
    if len(call.args) != 9 or not isinstance(call.args[3], bool):
        raise RuntimeError(
            f"{label} got a packed sequence, in which samples have no axis of their own. Pass the "
            "padded batch [B, T, d], and leave the padding out of the loss."
        )
    return Recurrence(KINDS[call.func], *call.args)


def seen(a: Tensor | None, g: Tensor, where: Where) -> Part:
    """Returns the part of a weight that saw a [B, T, i] and got g [B, T, o]; a is None for a bias.

    Args:
        a: what came in.
        g: what came back.
        where: the samples, on the first axis of both.
    """
    back = where.positions(g)
    if a is None:
        return Formed(segment_sum(back.sum(1), where.groups))
    return Outer(where.positions(a), back, where.groups)
