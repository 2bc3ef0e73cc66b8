"""From the gradient of a view of a parameter to the parameter's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpclip.groups import Groups
from dpclip.ops.likes import Like
from dpclip.ops.sliced import Sliced, rows_of
from dpclip.parts import Formed, Outer, Part


def placed(like: Like, part: Part, groups: Groups) -> Part | None:
    """Returns the part of the parameter from a part of `like.core`.

    None where the way back leads through a function and not through a view.
    """
    core, alias = like.core, like.alias
    if not like.view:
        return None
    if core.shape == alias.shape and core.stride() == alias.stride():
        return part
    start = int(core.storage_offset() - alias.storage_offset())
    if core.dim() == 2 and isinstance(part, Outer) and core.t().is_contiguous():
        core, part = core.t(), Outer(part.g, part.a, groups)
        if core.shape == alias.shape:
            return part
    if core.is_contiguous():
        return Sliced(alias.shape, [(start, core.shape, part)], groups)
    if torch._debug_has_internal_overlap(core):
        return None
    rows = rows_of(part)
    full = rows.new_zeros(groups.count, *alias.shape)
    _window(full, core, start).copy_(rows)
    return Formed(full)


def _window(full: Tensor, core: Tensor, start: int) -> Tensor:
    """Returns [G, *core.shape], what `core` shows of its parameter, of the rows of that one."""
    strides: Sequence[int] = (full[0].numel(), *core.stride())
    return full.as_strided((len(full), *core.shape), strides, start)


def merged(parts: dict[nn.Parameter, Part], param: nn.Parameter, part: Part) -> None:
    """Adds a part of a parameter that may have one already."""
    known = parts.get(param)
    if known is not None:
        part = known.joined(part) or Formed(rows_of(known) + rows_of(part))
    parts[param] = part
