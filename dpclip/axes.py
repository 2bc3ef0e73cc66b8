"""Where the batch axis is, of every tensor that goes into a module or comes out of it.

Models mix [B, T, d] and [T, B, d], embed positions as [T] or [1, T] once for all samples, and may
have T == B. What the kind of module says is taken first, then what its earlier calls have taught,
then the sizes; what is left open is for the caller to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from opacus.layers.dp_rnn import RNNLinear
from torch import Tensor, nn

from dpclip.units import Unit

_FIRST = (
    nn.modules.conv._ConvNd,
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.EmbeddingBag,
    RNNLinear,
)
"""Modules whose batch axis is always the first."""

Place = int | Literal["once", "new"]
"""A batch axis; "once": size 1 there, computed once for all samples; "new": the same, and the
axis itself is missing (positions embedded as [T])."""

ONCE = ("once", "new")


def places(unit: Unit, tensor: Tensor, rows: int, declared: int) -> list[Place]:
    """Returns every reading of an output's shape under which it belongs to a batch of B rows.

    Args:
        unit: the module.
        tensor: one of its outputs.
        rows: B.
        declared: the batch axis of the model's inputs.
    """
    module = unit.module
    axes = [a for a in _axes(module, tensor, declared) if tensor.dim() > a]
    found: list[Place] = [a for a in axes if tensor.shape[a] == rows]
    if rows > 1 and declared in axes and tensor.shape[declared] == 1:
        found.append("once")
    if isinstance(module, nn.Embedding) and tensor.dim() == 2 and (rows > 1 or not found):
        found.append("new")
    return found


def known_axis(module: nn.Module, number: int) -> int | None:
    """Returns the batch axis of output `number` where the kind of module settles it."""
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        first = 0 if module.batch_first else 1
        states = 1 if isinstance(module, nn.RNNBase) else 0
        return first if number == 0 else states
    return 0 if isinstance(module, _FIRST) else None


def _axes(module: nn.Module, tensor: Tensor, declared: int) -> Sequence[int]:
    """Returns the axes that may be the batch's, the likelier first."""
    if isinstance(module, _FIRST):
        return (0,)
    if isinstance(module, (nn.Linear, nn.Embedding)):
        features = 1
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        features = len(module.normalized_shape)
    else:
        # The second axis of a matrix is a feature axis unless the model says otherwise.
        return (declared, 1 - declared) if tensor.dim() > 2 or declared else (0,)
    return [a for a in (declared, 1 - declared) if a < tensor.dim() - features]
