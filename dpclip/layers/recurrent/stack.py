"""Stacks of recurrent layers that stand in for PyTorch's own functions of the same kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import _VF, Tensor

from dpclip.layers.recurrent.cell import Cell, Weights
from dpclip.layers.recurrent.gru import GRU
from dpclip.layers.recurrent.layer import Capture, Plan, layer
from dpclip.layers.recurrent.lstm import LSTM
from dpclip.layers.recurrent.sequences import Direction
from dpclip.layers.recurrent.simple import RELU, TANH, simple

KINDS = {"lstm": LSTM, "gru": GRU, "rnn_tanh": simple(TANH), "rnn_relu": simple(RELU)}
"""Kinds of recurrence by the name of PyTorch's function."""

Layer = Callable[[Tensor], tuple[Tensor, ...]]


def recur(
    kind: str,
    input: Tensor,
    hx: Tensor | Sequence[Tensor],
    flat_weights: Sequence[Tensor],
    *,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    capture: Capture,
) -> tuple[Tensor, ...]:
    """Returns what torch's function of the same name does: output, h_n and, of an LSTM, c_n.

    Gradients flow to the input and the state. Weights get none; the backward pass tells `capture`
    what they saw instead. With gradients switched off torch's own function runs.

    Args:
        kind: a name in `KINDS`.
        input: [T, B, I], or [B, T, I] with `batch_first`.
        hx: [layers * directions, B, P]; for an LSTM a pair with [layers * directions, B, H].
        flat_weights: detached, in PyTorch's order: W_ih, W_hh, b_ih, b_hh, W_hr, as far as there
            are any, for each layer and in it each direction.
        has_biases: whether there are b_ih and b_hh.
        num_layers: layers on top of each other.
        dropout: share of the outputs of all layers but the last that are zeroed, if `train`.
        train: True while training.
        bidirectional: True for a second direction, from the last step to the first.
        batch_first: True if samples come before time in `input` and in the output.
        capture: called with the position of a weight in `flat_weights`; see `Capture`.
    """
    if not torch.is_grad_enabled():
        flags = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
        outputs: tuple[Tensor, ...] = getattr(_VF, kind)(input, hx, list(flat_weights), *flags)
        return outputs
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    lowered = partial(_cast, dtype=_autocast_dtype(input))
    layers = _layers(
        KINDS[kind],
        [lowered(state) for state in states],
        [lowered(weight) for weight in flat_weights],
        has_biases,
        bidirectional,
        capture,
    )
    depths = [layers[k : k + 1 + bidirectional] for k in range(0, len(layers), 1 + bidirectional)]
    outputs = _climb(lowered(input), depths, dropout if train else 0.0, batch_first)
    return _as_native(kind, outputs, states)


def _layers(
    cell: Cell,
    states: Sequence[Tensor],
    flat: Sequence[Tensor],
    has_biases: bool,
    bidirectional: bool,
    capture: Capture,
) -> list[Layer]:
    """Returns each layer and direction as a function of its input alone."""
    starts = list(zip(*(state.unbind(0) for state in states), strict=True))
    each = len(flat) // len(starts)
    made: list[Layer] = []
    for k, start in enumerate(starts):
        direction = Direction(reverse=bidirectional and k % 2 == 1)
        plan = Plan(cell, direction, partial(_tell_from, capture, k * each))
        weights = _named(flat[k * each : (k + 1) * each], has_biases)
        made.append(partial(layer, plan, start, weights))
    return made


def _tell_from(capture: Capture, first: int, i: int, a: Tensor | None, g: Tensor) -> None:
    capture(first + i, a, g)


def _named(own: Sequence[Tensor], has_biases: bool) -> Weights:
    biases = own[2:4] if has_biases else (None, None)
    return Weights(*own[:2], *biases, *own[4 if has_biases else 2 :])


def _climb(
    x: Tensor, depths: Sequence[Sequence[Layer]], dropout: float, batch_first: bool
) -> tuple[Tensor, ...]:
    """Returns the output of the last depth and the stacked last states of all."""
    finals: list[tuple[Tensor, ...]] = []
    for depth in depths:
        if finals and dropout:
            x = F.dropout(x, dropout)
        results = [run(x.transpose(0, 1) if batch_first else x) for run in depth]
        outputs = [result[0].transpose(0, 1) if batch_first else result[0] for result in results]
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
        finals += [result[1:] for result in results]
    return x, *(torch.stack(states) for states in zip(*finals, strict=True))


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Returns the dtype to which autocast lowers x, None if it leaves x alone."""
    device = x.device.type
    can_be_lowered = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    if can_be_lowered and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)


def _as_native(
    kind: str, outputs: tuple[Tensor, ...], states: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Returns the outputs in the dtypes that torch's function gives them.

    Under autocast on a CPU some have no kernel of their own, and the state lifts what is added to
    it: all of a GRU, and the cells of an LSTM with projections.
    """
    if outputs[0].is_cuda:
        return outputs
    if kind == "gru":
        return tuple(output.to(states[0].dtype) for output in outputs)
    if kind == "lstm" and states[0].shape[2] != states[1].shape[2]:
        return *outputs[:2], outputs[2].to(states[1].dtype)
    return outputs
