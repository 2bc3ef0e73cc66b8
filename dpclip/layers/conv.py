"""Group rows of nn.Conv1d, nn.Conv2d and nn.Conv3d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum

_WORTH_A_CALL = 3e6
"""Multiplications in one group above which a kernel call of its own is faster than unfolding all
samples at once (measured on one CPU core; both give the same rows)."""


def conv_rows(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Tensor]:
    """Returns weight rows [G, out, in / groups, *kernel] and bias rows [G, out].

    Args:
        module: the convolution, with any padding.
        inputs: one tensor A [B, in, *space].
        gout: [B, out, *space'].
        groups: the groups of the B samples.
    """
    layer = cast(nn.Conv2d, module)
    a, g = kept_rows(inputs[0].to(gout.dtype), groups), kept_rows(gout, groups)
    rows: dict[nn.Parameter, Tensor] = {}
    weight = cast(nn.Parameter, layer.weight)
    if weight.requires_grad:
        work = g[:1].numel() * weight[0].numel() * len(g) / groups.count
        unfold = g.device.type != "cpu" or work < _WORTH_A_CALL
        if unfold and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            # The unfolding reads strides as if tensors were contiguous (channels_last is not).
            samples = GradSampleHooks.GRAD_SAMPLERS[type(layer)](
                layer, [a.contiguous()], g.contiguous()
            )
            rows[weight] = segment_sum(samples[weight], groups)
        else:
            rows[weight] = _weight_rows(layer, a, g, groups)
    if layer.bias is not None and layer.bias.requires_grad:
        rows[cast(nn.Parameter, layer.bias)] = segment_sum(g.flatten(2).sum(2), groups)
    return rows


def _weight_rows(layer: nn.Conv2d, a: Tensor, g: Tensor, groups: Groups) -> Tensor:
    """Returns weight rows by the kernel that plain training uses, called once for each group."""
    padding: Sequence[int] = [0] * len(layer.stride)
    if layer.padding_mode != "zeros":
        a = F.pad(a, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    elif isinstance(layer.padding, str):  # "same" may pad one side more than the other
        a = F.pad(a, layer._reversed_padding_repeated_twice)
    else:
        padding = layer.padding
    if groups.equal is None:
        order = torch.argsort(groups.index, stable=True).to(a.device)
        a, g = a[order], g[order]
    sizes = groups.sizes.tolist()
    weight = layer.weight.detach().to(g.dtype)
    mask = [False, True, False]
    rows = [
        torch.ops.aten.convolution_backward(
            dy, x, weight, None, layer.stride, padding, layer.dilation, False,
            [0] * len(padding), layer.groups, mask,
        )[1]
        for x, dy in zip(a.split(sizes), g.split(sizes), strict=True)
    ]  # fmt: skip
    return torch.stack(rows)
