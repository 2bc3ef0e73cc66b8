"""Rules for tables: F.embedding, table[ids] and index_select with ids that samples hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.sliced import Sliced
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Part, Scattered


def embedding(call: Call) -> Use | None:
    """Returns the use in torch.embedding(weight [V, d], ids).

    Raises:
        ValueError: scale_grad_by_freq, which lets the other samples scale a sample's gradient.
    """
    given = call.named("weight", "indices", "padding_idx", "scale_grad_by_freq", "sparse")
    if given is None:
        return None
    if given[3]:
        raise ValueError(
            "F.embedding(scale_grad_by_freq=True) scales each sample's gradient by how often the "
            "whole batch uses a token, so no per-group gradient exists. Turn it off."
        )
    padding = given[2] if given[2] is not None and given[2] >= 0 else None
    return _use(call.like(given[0]), given[1], padding)


def getitem(call: Call) -> Use | None:
    """Returns the use in table [V, ...] at ids."""
    table, ids = call.args
    if not isinstance(ids, Tensor) or ids.dtype in (torch.bool, torch.uint8):
        return None
    return _use(call.like(table), ids, None)


def index_select(call: Call) -> Use | None:
    """Returns the use in table.index_select(0, ids)."""
    given = call.named("input", "dim", "index")
    return None if given is None or given[1] != 0 else _use(call.like(given[0]), given[2], None)


def _use(table: Like | None, ids: Any, padding: int | None) -> Use | None:
    if table is None or table.core.shape != table.tensor.shape or not isinstance(ids, Tensor):
        return None
    words, *each = table.core.shape
    width = math.prod(each)

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        chosen = where.first(ids)
        owner = where.groups.index.to(ids.device).view(-1, 1).expand(len(chosen), chosen[0].numel())
        places = chosen.reshape(-1)
        places = torch.where(places < 0, places + words, places)
        g = where.first(grad).reshape(-1, width)
        if padding is not None:
            g = g.masked_fill((places == padding)[:, None], 0.0)
        part: Part = Scattered(places, owner.reshape(-1), g, words, where.groups)
        if len(each) != 1:
            part = Sliced(table.core.shape, [(0, (words, width), part)], where.groups)
        yield table, part

    return Use(form, [ids], [-1 - i for i in range(len(each))])


RULES: dict[object, Rule] = {
    torch.embedding: embedding,
    Tensor.__getitem__: getitem,
    torch.index_select: index_select,
    Tensor.index_select: index_select,
}
