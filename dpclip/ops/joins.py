"""Rules for torch.cat and torch.stack: a class token before the patches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Formed, Part


def cat(call: Call) -> Use | None:
    """Returns the use in torch.cat(tensors, dim)."""
    given = call.named("tensors", "dim")
    if given is None:
        return None
    tensors, dim = given[0], given[1] or 0
    sizes = [t.shape[dim] for t in tensors]

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        for tensor, piece in zip(tensors, grad.split(sizes, dim), strict=True):
            if tensor is not None:
                yield tensor, _part(tensor, piece, where)

    if any(t.dim() != tensors[0].dim() for t in tensors):  # torch lets empty ones pass
        return None
    tensors = [call.like(t) for t in tensors]
    return Use(form, barred=(dim,))


def stack(call: Call) -> Use | None:
    """Returns the use in torch.stack(tensors, dim)."""
    given = call.named("tensors", "dim")
    if given is None:
        return None
    likes, dim = [call.like(t) for t in given[0]], given[1] or 0

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        for i, like in enumerate(likes):
            if like is not None:
                yield like, _part(like, grad.narrow(dim, i, 1), where, dim % grad.dim())

    return Use(form, barred=(dim,))


def _part(like: Like, grad: Tensor, where: Where, new: int | None = None) -> Part:
    """Returns the part of a like that was put among samples.

    Args:
        like: the like.
        grad: what came back for it, with its samples at the same place as the whole output's.
        where: that place.
        new: an axis of `grad` that the like does not have.
    """
    shape = list(like.core.shape)
    if new is None:
        return Formed(where.summed(where.first(grad), shape, grad.dim()))
    rows = where.summed(where.first(grad), [*shape[:new], 1, *shape[new:]], grad.dim())
    return Formed(rows.squeeze(new + 1))


RULES: dict[object, Rule] = {
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), cat),
    torch.stack: stack,
}
