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
    a, g = kept_rows(inputs[0].to(gout.dtype), groups), kept_rows(gout, groups)
    a, g = a.reshape(len(a), -1, a.shape[-1]), g.reshape(len(g), -1, g.shape[-1])
    parts: dict[nn.Parameter, Part] = {}
    if layer.weight.requires_grad:
        parts[cast(nn.Parameter, layer.weight)] = Outer(a, g, groups)
    if layer.bias is not None and layer.bias.requires_grad:
        parts[layer.bias] = Formed(segment_sum(positions_summed(g), groups))
    return parts


def positions_summed(g: Tensor) -> Tensor:
    """Returns [R, o] from [R, n, o]; a view where there is one position."""
    return g.squeeze(1) if g.shape[1] == 1 else g.sum(1)
