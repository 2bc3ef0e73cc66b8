"""Rules for sums, products and quotients with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Formed, Part


def add(call: Call) -> Use | None:
    """Returns the use in `a + alpha b`."""
    return _signed(call, 1.0)


def sub(call: Call) -> Use | None:
    """Returns the use in `a - alpha b`."""
    return _signed(call, -1.0)


def _signed(call: Call, sign: float) -> Use | None:
    given = call.named("input", "other", "alpha")
    if given is None:
        return None
    one, other, alpha = given
    like = call.like(one)
    if like is not None:
        return _use(like)
    like = call.like(other)
    assert like is not None
    factor = sign * (1 if alpha is None else alpha)
    return _use(like) if factor == 1.0 else _use(like, before=lambda g: g * factor)


def mul(call: Call) -> Use | None:
    """Returns the use in `a * b`."""
    given = call.named("input", "other")
    if given is None:
        return None
    one, other = given if call.like(given[0]) else given[::-1]
    like = call.like(one)
    assert like is not None
    # In place, the product will lie where the factor was.
    x = other.clone() if _in_place(call) else other
    return _use(like, x.detach())


def div(call: Call) -> Use | None:
    """Returns the use in `a / b`."""
    given = call.named("input", "other")
    if given is None:
        return None
    like = call.like(given[0])
    if like is not None:
        return _use(like, given[1].detach(), torch.div)
    like = call.like(given[1])
    assert like is not None
    x, w = given[0].clone() if _in_place(call) else given[0], like.value
    return _use(like, x.detach(), torch.mul, lambda g: -g / (w * w))


def _in_place(call: Call) -> bool:
    return getattr(call.func, "__name__", "").endswith("_")


def _use(
    like: Like,
    other: Tensor | None = None,
    times: Callable[[Tensor, Tensor], Tensor] = torch.mul,
    before: Callable[[Tensor], Tensor] | None = None,
) -> Use:
    """Returns the use of `like`, whose gradient is that of the output times something.

    Args:
        like: the parameter.
        other: the other operand, if it matters.
        times: (gradient, the other operand) -> gradient by the parameter.
        before: gradient -> gradient, first of all.
    """

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        g = where.first(grad if before is None else before(grad))
        if other is not None:
            g = times(g, where.first(other.expand(grad.shape)))
        yield like, Formed(where.summed(g, like.core.shape, grad.dim()))

    return Use(form, [] if other is None else [other], own_axes(like))


def own_axes(like: Like) -> list[int]:
    """Returns the axes along which a parameter has numbers of its own, counted from the end."""
    if not like.view:  # a function of parameters may hold a row for each sample
        return []
    shape = like.core.shape
    return [axis - len(shape) for axis, size in enumerate(shape) if size > 1]


RULES: dict[object, Rule] = {
    **dict.fromkeys((torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__), add),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__), sub),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__), mul),
    **dict.fromkeys((torch.multiply, Tensor.multiply), mul),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__), div),
    **dict.fromkeys((torch.true_divide, Tensor.true_divide), div),
}
