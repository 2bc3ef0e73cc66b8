"""A rule for torch.einsum of samples and a weight, where that is a matrix product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dpclip.ops.likes import Like
from dpclip.ops.places import Where
from dpclip.ops.sliced import Sliced
from dpclip.ops.table import Call, Rule, Use
from dpclip.parts import Outer, Part


class _Letters(NamedTuple):
    """What the letters of x and w -> out mean.

    Attributes:
        x: those of x.
        out: those of the result.
        kept: in x and the result: samples and positions.
        summed: in x and w.
        new: in w and the result.
        new_first: whether w has the new before the summed.
    """

    x: str
    out: str
    kept: str
    summed: str
    new: str
    new_first: bool


def einsum(call: Call) -> Use | None:
    """Returns the use of w in "bti,io->bto" and the like, with any number of axes."""
    if len(call.args) != 2 or len(call.args[1]) != 2 or len(call.found) != 1:
        return None
    equation, (one, other) = call.args
    weight = call.like(other) or call.like(one)
    assert weight is not None
    x = (one if weight.tensor is other else other).detach()
    letters = _letters(equation, weight.tensor is other)
    if letters is None or weight.core.shape != weight.tensor.shape:
        return None
    shape = weight.core.shape

    def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
        place = where.place
        if place.axis >= 0:
            place = place._replace(axis=letters.kept.index(letters.out[place.axis]))
        inside = Where(place, where.rows, where.groups)
        a = _positions(x.to(grad.dtype), letters.x, letters.kept, letters.summed, inside)
        g = _positions(grad, letters.out, letters.kept, letters.new, inside)
        part: Part = Outer(a, g, where.groups)
        sides = [g.shape[2], a.shape[2]]
        if not letters.new_first:
            part, sides = Outer(g, a, where.groups), sides[::-1]
        if len(shape) != 2:
            part = Sliced(shape, [(0, sides, part)], where.groups)
        yield weight, part

    return Use(form, [x], [letters.out.index(letter) for letter in letters.new])


def _letters(equation: str, weight_last: bool) -> _Letters | None:
    """Returns what the letters mean, None if it is no matrix product."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    subs = given.split(",")
    x, w = subs if weight_last else subs[::-1]
    if not arrow or "." in equation or any(len(set(s)) != len(s) for s in (x, w, out)):
        return None
    kept = "".join(c for c in out if c in x)
    summed, new = "".join(c for c in w if c in x), "".join(c for c in w if c in out)
    if set(summed) & set(new) or set(kept + summed) != set(x) or set(kept + new) != set(out):
        return None
    if w not in (new + summed, summed + new):
        return None
    return _Letters(x, out, kept, summed, new, w == new + summed)


def _positions(
    tensor: Tensor, letters: str, kept: Sequence[str], last: Sequence[str], where: Where
) -> Tensor:
    """Returns [R, n, d] with d the product of the axes `last`."""
    ordered = tensor.permute([letters.index(letter) for letter in (*kept, *last)])
    return where.positions(ordered.flatten(len(kept)) if last else ordered.unsqueeze(-1))


RULES: dict[object, Rule] = {torch._VF.einsum: einsum}  # type: ignore[attr-defined]
