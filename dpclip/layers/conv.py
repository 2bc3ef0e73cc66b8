"""Group gradients of nn.Conv1d, nn.Conv2d and nn.Conv3d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum
from dpclip.parts import Convolved, Formed, Outer, Part


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
        part = _pointwise(layer, a, g, groups) or Convolved(layer, a, g, groups)
        parts[cast(nn.Parameter, layer.weight)] = part
    if layer.bias is not None and layer.bias.requires_grad:
        bias = segment_sum(g.flatten(2).sum(2), groups)
        parts[cast(nn.Parameter, layer.bias)] = Formed(bias)
    return parts


def _pointwise(layer: nn.Conv2d, a: Tensor, g: Tensor, groups: Groups) -> Part | None:
    """Returns the part of a kernel of one pixel, which is a linear layer on each; else None."""
    plain = layer.groups == 1 and not layer.transposed and a.shape[2:] == g.shape[2:]
    if not plain or any(size > 1 for size in layer.kernel_size) or set(layer.stride) != {1}:
        return None
    pixels = [t.flatten(2).transpose(1, 2) for t in (a, g)]
    return Outer(pixels[0], pixels[1], groups, layer.weight.shape)
