"""Rules for F.conv1d, F.conv2d and F.conv3d."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from dpclip.groups import Groups, segment_sum
from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Convolved, Formed, Part

_LAYERS: dict[Any, type[nn.Module]] = {
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
}


def conv(call: Call) -> Use | None:
    """Returns the use of kernels [o, i / groups, *k] and biases [o] on images [B, i, *space]."""
    given = call.named("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    if given is None or call.like(given[0]) or given[0].dim() != given[1].dim():
        return None
    x, kernel, weight, bias = given[0].detach(), given[1], call.like(given[1]), call.like(given[2])
    default = (1, 0, 1, 1)
    settings = [d if v is None else v for v, d in zip(given[3:], default, strict=True)]
    if weight and weight.core.shape != kernel.shape:
        return None

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        a, g = (_merged(t, where) for t in (x.to(grad.dtype), grad))
        groups = _repeated(where.groups, len(g) // len(where.groups.index))
        if weight:
            yield weight, Convolved(_layer(call.func, weight.value, settings), a, g, groups)
        if bias:
            yield bias, Formed(segment_sum(g.flatten(2).sum(2), groups))

    return Use(form, [x] if weight else [], range(1, x.dim()))


def _layer(func: Any, kernel: Tensor, settings: list[Any]) -> nn.Conv2d:
    """Returns a layer that has the kernel and computes the same."""
    out, each, *size = kernel.shape
    stride, padding, dilation, groups = settings
    make = cast(Callable[..., nn.Conv2d], _LAYERS[func])
    made = make(
        each * groups,
        out,
        tuple(size),
        stride,
        padding,
        dilation,
        groups,
        bias=False,
        device="meta",
    )
    made.weight = nn.Parameter(kernel)
    return made


def _merged(tensor: Tensor, where: Where) -> Tensor:
    """Returns [R k, C, *space] where each sample holds k images."""
    found = where.first(tensor)
    return found.flatten(0, found.dim() - tensor.dim())


def _repeated(groups: Groups, each: int) -> Groups:
    """Returns the groups of images of which each sample holds several."""
    if each == 1:
        return groups
    index = groups.index.repeat_interleave(each)
    order = None if groups.order is None else torch.argsort(index, stable=True)
    lengths = [length * each for length in groups.lengths]
    equal = None if groups.equal is None else groups.equal * each
    return Groups(index, groups.count, groups.sizes * each, None, equal, lengths, order)


RULES: dict[object, Rule] = dict.fromkeys(_LAYERS, conv)
