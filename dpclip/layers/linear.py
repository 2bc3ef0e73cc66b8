"""Group gradients of nn.Linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum
from dpclip.parts import Formed, Outer, Part


def linear_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns parts of the weight [out, in] and the bias [out].

    Args:
        module: the nn.Linear.
        inputs: one tensor A [B, ..., in].
        gout: [B, ..., out].
        groups: the groups of the B samples.
    """
    layer = cast(nn.Linear, module)
    a, g = inputs[0], kept_rows(gout, groups)
    a = kept_rows(a if a.dtype == g.dtype else a.to(g.dtype), groups)
    a, g = _positions(a), _positions(g)
    parts: dict[nn.Parameter, Part] = {}
    if layer.weight.requires_grad:
        parts[cast(nn.Parameter, layer.weight)] = Outer(a, g, groups)
    if layer.bias is not None and layer.bias.requires_grad:
        parts[layer.bias] = Formed(segment_sum(positions_summed(g), groups))
    return parts


def _positions(rows: Tensor) -> Tensor:
    """Returns [R, n, features] from [R, ..., features]."""
    if rows.dim() == 3:
        return rows
    return rows[:, None] if rows.dim() == 2 else rows.reshape(len(rows), -1, rows.shape[-1])


def positions_summed(g: Tensor) -> Tensor:
    """Returns [R, o] from [R, n, o]; a view where there is one position."""
    return g.squeeze(1) if g.shape[1] == 1 else g.sum(1)
