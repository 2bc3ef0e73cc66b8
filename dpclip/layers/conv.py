"""Group gradients of nn.Conv1d, nn.Conv2d and nn.Conv3d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum
from dpclip.parts import Convolved, Formed, Part


def conv_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns parts of the weight [out, in / groups, *kernel] and the bias [out].

    Args:
        module: the convolution, with any padding.
        inputs: one tensor A [B, in, *space].
        gout: [B, out, *space'].
        groups: the groups of the B samples.
    """
    layer = cast(nn.Conv2d, module)
    a, g = kept_rows(inputs[0].to(gout.dtype), groups), kept_rows(gout, groups)
    parts: dict[nn.Parameter, Part] = {}
    if layer.weight.requires_grad:
        parts[cast(nn.Parameter, layer.weight)] = Convolved(layer, a, g, groups)
    if layer.bias is not None and layer.bias.requires_grad:
        bias = segment_sum(g.flatten(2).sum(2), groups)
        parts[cast(nn.Parameter, layer.bias)] = Formed(bias)
    return parts
