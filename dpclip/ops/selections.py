"""Rules for torch.where and masked_fill: mask tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dpclip.ops.elementwise import own_axes
from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Formed, Part


def where(call: Call) -> Use | None:
    """Returns the use in torch.where(mask, input, other)."""
    given = call.named("condition", "input", "other")
    if given is None or given[1] is None:
        return None
    return _use(given[0], call.like(given[1]), call.like(given[2]))


def masked_fill(call: Call) -> Use | None:
    """Returns the use in input.masked_fill(mask, value)."""
    given = call.named("input", "mask", "value")
    return None if given is None else _use(given[1], call.like(given[2]), call.like(given[0]))


def tensor_where(call: Call) -> Use | None:
    """Returns the use in input.where(mask, other)."""
    given = call.named("self", "condition", "other")
    return None if given is None else _use(given[1], call.like(given[0]), call.like(given[2]))


def _use(mask: Tensor, chosen: Like | None, other: Like | None) -> Use:
    """Returns the use of what is taken where the mask is True, and of what is elsewhere."""

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        for like, kept in ((chosen, mask), (other, ~mask)):
            if like is not None:
                own = where.first(torch.where(kept, grad, 0.0))
                yield like, Formed(where.summed(own, like.core.shape, grad.dim()))

    used = [like for like in (chosen, other) if like is not None]
    return Use(form, [mask], {axis for like in used for axis in own_axes(like)})


RULES: dict[object, Rule] = {
    torch.where: where,
    Tensor.where: tensor_where,
    torch.masked_fill: masked_fill,
    Tensor.masked_fill: masked_fill,
}
