"""Rules for F.layer_norm, F.rms_norm and F.group_norm: weight * xhat + bias."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Formed, Part
from dpclip.parts.part import accumulated


def layer_norm(call: Call) -> Use | None:
    """Returns the use of weight and bias [*shape] on x [..., *shape]."""
    given = call.named("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable")
    if given is None or call.like(given[0]):
        return None
    x, shape, weight, bias, eps = given[:5]

    def normal(x: Tensor) -> Tensor:
        return torch.layer_norm(x, shape, None, None, 1e-5 if eps is None else eps)

    return _use(call, x, (weight, bias), normal, [-1 - i for i in range(len(shape))])


def rms_norm(call: Call) -> Use | None:
    """Returns the use of weight [*shape] on x [..., *shape]."""
    given = call.named("input", "normalized_shape", "weight", "eps")
    if given is None or call.like(given[0]):
        return None
    x, shape, weight, eps = given
    # What is left out is the smallest number of the dtype in which x comes.
    eps = torch.finfo(x.dtype).eps if eps is None else eps

    def normal(x: Tensor) -> Tensor:
        return torch.rms_norm(x, shape, None, eps)

    return _use(call, x, (weight, None), normal, [-1 - i for i in range(len(shape))])


def group_norm(call: Call) -> Use | None:
    """Returns the use of weight and bias [C] on x [B, C, *space]."""
    given = call.named("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled")
    if given is None or call.like(given[0]):
        return None
    x, blocks, weight, bias, eps = given[:5]

    def normal(x: Tensor) -> Tensor:
        return torch.group_norm(x, blocks, None, None, 1e-5 if eps is None else eps)

    return _use(call, x, (weight, bias), normal, range(1, x.dim()), x.dim() - 2)


def _use(
    call: Call,
    x: Tensor,
    trained: Sequence[Tensor | None],
    normal: Callable[[Tensor], Tensor],
    barred: Sequence[int],
    space: int = 0,
) -> Use:
    """Returns the use of weight and bias.

    Args:
        call: the operation.
        x: its input.
        trained: weight and bias.
        normal: gives xhat.
        barred: axes that cannot be the batch's.
        space: how many axes of x follow after those of the weight.
    """
    x = x.detach()
    weight, bias = (None if t is None else call.like(t) for t in trained)

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        wide = grad.to(accumulated(grad.dtype))
        ones = [1] * space
        if weight:
            product = where.first(normal(x.to(wide.dtype)) * wide)
            rows = where.summed(product, [*weight.core.shape, *ones], grad.dim())
            yield weight, Formed(rows.view(-1, *weight.core.shape))
        if bias:
            rows = where.summed(where.first(wide), [*bias.core.shape, *ones], grad.dim())
            yield bias, Formed(rows.view(-1, *bias.core.shape))

    return Use(form, [x] if weight else [], barred)


RULES: dict[object, Rule] = {
    torch.layer_norm: layer_norm,
    torch.rms_norm: rms_norm,
    torch.group_norm: group_norm,
}
