"""Rules for linear maps: F.linear, matmul, addmm."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dpclip.groups import segment_sum
from dpclip.layers.linear import positions_summed
from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Formed, Outer, Part


def linear(call: Call) -> Use | None:
    """Returns the use in x [..., i], weight [o, i], bias [o] -> [..., o]."""
    given = call.named("input", "weight", "bias")
    if given is None or call.like(given[0]):
        return None
    x, weight, bias = given[0].detach(), call.like(given[1]), call.like(given[2])
    if given[1].dim() != 2 or (weight and not _whole(weight)):
        return None

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        g = where.positions(grad)
        if weight:
            yield weight, Outer(where.positions(x.to(grad.dtype)), g, where.groups)
        if bias:
            total = segment_sum(positions_summed(g), where.groups)
            yield bias, Formed(total if _whole(bias) else total.sum(1, keepdim=True))

    return Use(form, [x] if weight else [], (-1,))


def matmul(call: Call) -> Use | None:
    """Returns the use in x [..., n, i] @ weight [i, o], or weight [o, i] @ x [..., i, n]."""
    given = call.named("input", "other")
    if given is None or given[1] is None:
        return None
    if call.like(given[0]):
        return _from_the_left(call, given[0], given[1])
    x, weight = given[0].detach(), call.like(given[1])
    if weight is None or given[1].dim() != 2 or not _whole(weight):
        return None

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        yield _product(weight, where.positions(x.to(grad.dtype)), where.positions(grad), where)

    return Use(form, [x], (-1,))


def _from_the_left(call: Call, left: Tensor, right: Tensor) -> Use | None:
    x, weight = right.detach(), call.like(left)
    if weight is None or left.dim() != 2 or x.dim() < 3 or not _whole(weight):
        return None

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        a, g = (where.first(t).transpose(-1, -2) for t in (x.to(grad.dtype), grad))
        a, g = (t.reshape(len(t), -1, t.shape[-1]) for t in (a, g))
        yield _product(weight, g, a, where)

    return Use(form, [x], (-1, -2))


def addmm(call: Call) -> Use | None:
    """Returns the use in bias [o] + x [n, i] @ weight [i, o], as in the Conv1D of GPT-2."""
    given = call.named("input", "mat1", "mat2", "beta", "alpha")
    if given is None or call.like(given[1]):
        return None
    bias, x, weight = call.like(given[0]), given[1].detach(), call.like(given[2])
    beta, alpha = (1 if scale is None else scale for scale in given[3:])
    if weight and not _whole(weight):
        return None

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        g = where.positions(grad)
        if weight:
            scaled = g if alpha == 1 else g * alpha
            yield _product(weight, where.positions(x.to(grad.dtype)), scaled, where)
        if bias:
            total = where.summed(where.first(grad), bias.core.shape, 2)
            yield bias, Formed(total if beta == 1 else total * beta)

    return Use(form, [x] if weight else [], (-1,))


def _product(weight: Like, a: Tensor, g: Tensor, where: Where) -> tuple[Like, Part]:
    """Returns the part a^T g of a weight [i, o] for a [R, n, i] and g [R, n, o]."""
    return weight, Outer(g, a, where.groups)


def _whole(like: Like) -> bool:
    return like.core.shape == like.tensor.shape


RULES: dict[object, Rule] = {
    torch._C._nn.linear: linear,
    torch.matmul: matmul,
    Tensor.matmul: matmul,
    Tensor.__matmul__: matmul,
    torch.mm: matmul,
    Tensor.mm: matmul,
    torch.addmm: addmm,
    Tensor.addmm: addmm,
}
