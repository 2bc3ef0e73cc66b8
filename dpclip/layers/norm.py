"""Group gradients of the normalization layers.

Each returns weight * xhat + bias with xhat = (x - mean) * rstd, so a row of the weight is the sum
of g * xhat over the positions of a group, and a row of the bias the sum of g. The forward knew mean
and rstd, and finding them again costs as much as all the rest: `forward_statistics` fetches them,
and a rule takes them as further inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, sections, segment_sum
from dpclip.layers.linear import positions_summed
from dpclip.parts import Formed, Part
from dpclip.parts.part import accumulated

_WORTH_A_CALL = 2e4
"""Numbers in one group above which a kernel call of its own, which makes no temporary, is as fast
as products over many samples at once (measured on one CPU core; both give the same rows)."""

_CHUNK = 2**18
"""Numbers that are worked on at a time where a temporary is needed: larger ones are new memory each
time, whose page faults took up to five times as long as the arithmetic."""

_KEPT = ("NativeLayerNormBackward0", "NativeGroupNormBackward0", "NativeBatchNormBackward0")
"""Nodes of the autograd graph whose second and third results are mean and rstd."""


def forward_statistics(output: Tensor) -> tuple[Tensor, ...]:
    """Returns the (mean, rstd) that a norm's native forward keeps for its backward, else ().

    Args:
        output: what the layer returned, with its graph, before anything else touched it.
    """
    node: Any = output.grad_fn
    if type(node).__name__ == "ViewBackward0":  # InstanceNorm is a batch norm of [1, B C, *space]
        node = node.next_functions[0][0]
    if type(node).__name__ not in _KEPT:
        return ()
    held = (node._raw_saved_result1, node._raw_saved_result2)
    # Activation checkpointing puts hooks there: a look would run the forward again.
    if any(getattr(tensor, "unpack_hook", True) is not None for tensor in held):
        return ()
    found = (node._saved_result1.detach(), node._saved_result2.detach())
    return tuple(t.view(len(output), -1) if t.dim() == 1 else t for t in found)


def layer_norm_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns parts of the weight and the bias [*shape] of an nn.LayerNorm.

    Args:
        module: the nn.LayerNorm, with or without a bias.
        inputs: A [B, ..., *shape]; then mean and rstd [B, ..., 1 ...], if they are known.
        gout: [B, ..., *shape].
        groups: the groups of the B samples.
    """
    layer = cast(nn.LayerNorm, module)
    x, g = _wide(inputs[0], gout)
    axes = list(range(-len(layer.normalized_shape), 0))

    def statistics(x: Tensor) -> Sequence[Tensor]:
        mean = x.mean(axes, keepdim=True)  # half the time of native_layer_norm
        return mean, _rstd(x - mean, axes, layer.eps)

    mean, rstd = _known(inputs, x.dtype) or _by_chunks(statistics, x)
    return _over_positions(layer, (x, g, mean, rstd), groups)


def rms_norm_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns the part of the weight [*shape] of an nn.RMSNorm: a LayerNorm whose mean is 0.

    Args:
        module: the nn.RMSNorm.
        inputs: one tensor A [B, ..., *shape].
        gout: [B, ..., *shape].
        groups: the groups of the B samples.
    """
    layer = cast(nn.RMSNorm, module)
    x, g = _wide(inputs[0], gout)
    eps = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
    axes = list(range(-len(layer.normalized_shape), 0))
    rstd = _rstd(x, axes, eps)
    return _over_positions(layer, (x, g, torch.zeros_like(rstd), rstd), groups)


def group_norm_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns parts of the weight and the bias [C] of nn.GroupNorm and nn.InstanceNorm1d to 3d.

    Args:
        module: the layer; an InstanceNorm has no running statistics.
        inputs: A [B, C, *space]; then mean and rstd [B, blocks], if they are known.
        gout: [B, C, *space].
        groups: the groups of the B samples.
    """
    layer = cast(nn.GroupNorm, module)
    x, g = _wide(inputs[0], gout)
    channels, space = x.shape[1], math.prod(x.shape[2:])
    blocks = layer.num_groups if isinstance(layer, nn.GroupNorm) else channels

    def statistics(x: Tensor) -> Sequence[Tensor]:
        sizes = (len(x), channels, space, blocks)
        return torch.native_group_norm(x.contiguous(), None, None, *sizes, layer.eps)[1:]

    mean, rstd = _known(inputs, x.dtype) or _by_chunks(statistics, x)
    samples = (
        _over_pixels_native(x, g, mean, rstd)
        if x.is_contiguous() and g.is_contiguous()
        else _by_chunks(_over_pixels, x, g, mean, rstd)
    )
    rows = [segment_sum(kept_rows(sample, groups), groups) for sample in samples]
    return _parts(layer, rows)


def _wide(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both in the dtype in which they are multiplied and added up, that of the rows."""
    dtype = accumulated(torch.promote_types(x.dtype, g.dtype))
    return x.to(dtype), g.to(dtype)


def _known(inputs: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Returns mean and rstd if they came along, as precise as what they are used with."""
    return [] if any(t.dtype != dtype for t in inputs[1:]) else inputs[1:]


def _rstd(x: Tensor, axes: list[int], eps: float) -> Tensor:
    """Returns 1 / sqrt(mean(x^2) + eps) over axes, which are kept with size 1."""
    length: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    size = math.prod(x.shape[axis] for axis in axes)
    return length.square_().div_(size).add_(eps).rsqrt_()


def _by_chunks(form: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> Sequence[Tensor]:
    """Returns form(*tensors), taken for some of the samples at a time."""
    total, rows = tensors[0].numel(), len(tensors[0])
    if tensors[0].device.type != "cpu" or total <= _CHUNK:
        return form(*tensors)
    chunks = zip(*(t.split(max(1, _CHUNK * rows // total)) for t in tensors), strict=True)
    return [torch.cat(found) for found in zip(*(form(*c) for c in chunks), strict=True)]


def _trained(layer: nn.Module) -> list[nn.Parameter | None]:
    """Returns the weight and the bias, None for one that is frozen or not there."""
    both = (layer.weight, getattr(layer, "bias", None))
    return [cast(nn.Parameter, p) if p is not None and p.requires_grad else None for p in both]


def _parts(layer: nn.Module, rows: Sequence[Tensor | None]) -> dict[nn.Parameter, Part]:
    """Returns parts of rows [G, numel] of the weight and of the bias."""
    return {
        param: Formed(row.view(-1, *param.shape))
        for param, row in zip(_trained(layer), rows, strict=True)
        if param is not None and row is not None
    }


def _over_positions(
    layer: nn.Module, tensors: Sequence[Tensor], groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns parts of x, g [B, ..., *shape] and mean, rstd [B, ..., 1 ...]: sums over `...`."""
    width = cast(Tensor, layer.weight).numel()
    x, g = (t.reshape(len(t), -1, width) for t in tensors[:2])
    # The kernel reads these two without a look at their strides.
    mean, rstd = (t.reshape(*x.shape[:2], 1).contiguous() for t in tensors[2:])
    wanted = [p is not None for p in _trained(layer)]
    at_hand = x.device.type == "cpu" and groups.keep is None and groups.order is None
    form = _called if at_hand and x.numel() >= _WORTH_A_CALL * groups.count else _multiplied
    rows = iter(form(x, g, mean, rstd, groups, wanted))
    return _parts(layer, [next(rows) if want else None for want in wanted])


def _called(
    x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor, groups: Groups, wanted: list[bool]
) -> list[Tensor]:
    """Returns rows [G, w] of what is wanted, by a kernel call for each group."""
    backward = torch.ops.aten.native_layer_norm_backward.default
    unused = x.new_empty(x.shape[2])
    rows = [
        backward(g_k, x_k, unused.shape, mean_k, rstd_k, unused, unused, [False, *wanted])[1:]
        for g_k, x_k, mean_k, rstd_k in zip(
            *(sections(t, groups) for t in (g, x, mean, rstd)), strict=True
        )
    ]
    return [torch.stack([row[i] for row in rows]) for i in (0, 1) if wanted[i]]


def _multiplied(
    x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor, groups: Groups, wanted: list[bool]
) -> list[Tensor]:
    """Returns the same by products; padding rows and groups out of order cost no copies."""

    def form(x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor) -> list[Tensor]:
        product = x.sub(mean).mul_(rstd).mul_(g) if wanted[0] else x
        pairs = zip((product, g), wanted, strict=True)
        return [positions_summed(values) for values, want in pairs if want]

    samples = _by_chunks(form, x, g, mean, rstd)
    return [segment_sum(kept_rows(sample, groups), groups) for sample in samples]


def _over_pixels_native(x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor) -> list[Tensor]:
    """Returns rows [B, C] of weight and bias from x, g [B, C, *space] and mean, rstd [B, blocks].

    One kernel call, to which all samples are channels of a single one, so that it returns what it
    would have added up.
    """
    rows, channels = x.shape[:2]
    space, blocks = math.prod(x.shape[2:]), mean.shape[1]
    flat = (1, rows * channels, space)
    found = torch.ops.aten.native_group_norm_backward.default(
        g.view(flat), x.view(flat), mean.reshape(1, -1), rstd.reshape(1, -1),
        x.new_empty(rows * channels),  # the weight, which only an input gradient needs
        1, rows * channels, space, rows * blocks, [False, True, True],
    )[1:]  # fmt: skip
    return [row.view(rows, channels) for row in found]


def _over_pixels(x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor) -> list[Tensor]:
    """Returns the same by products, in whatever layout.

    The kernel would copy; asked for no input gradient, it crashes on channels_last (torch 2.11).
    """
    each = x.shape[1] // mean.shape[1]
    mean, rstd = mean.repeat_interleave(each, 1), rstd.repeat_interleave(each, 1)
    space = tuple(range(2, x.dim()))
    product = x.sub(mean.view(*mean.shape, *[1] * len(space))).mul_(g)
    if not space:
        return [product.mul_(rstd), g]
    return [product.sum(space).mul_(rstd), g.sum(space)]
