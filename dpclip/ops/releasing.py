"""What is made of parameters alone, on its way into modules that expect samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.ops.likes import Like
from dpclip.ops.lineage import tensors_in
from dpclip.ops.places import ALONE, Place
from dpclip.ops.watch import Watch


def batch_free(watch: Watch, values: Any) -> bool:
    """Returns True for nested tensors that no sample has an influence on, such as positions.

    Noise [B, d] has none either, but the batch's axis.
    """
    lineage, capturing = watch.lineage, watch.capturing
    tensors = tensors_in(values)
    if not all(map(lineage.is_constant, tensors)):
        return False
    rows = watch.around.rows
    plain = [t for t in tensors if not lineage.is_like(t)]
    return not any(any(n % rows == 0 for n in t.shape) and capturing.grows(t) for t in plain)


_FIRST = (nn.modules.conv._ConvNd, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
"""Modules whose batch axis is always the first."""


def folded(module: nn.Module, args: Sequence[Any], rows: int) -> bool:
    """Returns True if the first of a module's arguments is like [B T, d], or [W B, T, d]."""
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not first.dim():
        return False
    sizes = first.shape[:-1] if first.is_floating_point() else first.shape
    sizes = first.shape[:1] if isinstance(module, _FIRST) else sizes
    return rows not in sizes and any(n and n % rows == 0 for n in sizes)


def expanded_released(watch: Watch, values: Any) -> Any:
    """Returns nested values in which likes that were expanded to B samples count as samples.

    Learned queries [1, T, d] that are expanded to [B, T, d]: what other parameters make of them
    has a gradient for each sample.
    """
    rows = watch.around.rows

    def released(like: Like) -> Tensor:
        shape, core = like.tensor.shape, like.core.shape
        axes = [a for a, size in enumerate(shape) if size == rows > 1 and core[a] == 1]
        place = watch.capturing.handed_on(like, axes) if axes else None
        return like.tensor if place is None else watch.capturing.as_samples(like, place)

    return _mapped(watch, values, released)


def released(watch: Watch, values: Any, strict: bool) -> Any:
    """Returns nested values in which every tensor made of parameters has the batch's axis.

    A class token [1, 1, d] becomes [B, 1, d].

    Args:
        watch: the watch.
        values: nested tensors.
        strict: whether a tensor without an axis for the batch is an error. Where it is not, the
            parameter refuses the gradient if one comes.

    Raises:
        RuntimeError: there is no axis of size 1 for the batch.
    """
    rows, axis = watch.around.rows, watch.around.declared

    def one(like: Like) -> Tensor:
        shape = like.tensor.shape
        if rows == 1 or (len(shape) > axis and shape[axis] == 1):
            place = ALONE if rows == 1 else Place(axis)
            return watch.capturing.as_samples(like, place)
        if not strict:
            return like.tensor
        names = ", ".join(each.name for each in like.origins)
        raise RuntimeError(
            f"A module after {watch.capturing.label} gets a tensor of shape {tuple(shape)} that is "
            f"computed from {names} once for all {rows} samples. Give it a leading axis of 1."
        )

    return _mapped(watch, expanded_released(watch, values), one)


def _mapped(watch: Watch, values: Any, how: Callable[[Like], Tensor]) -> Any:
    lineage = watch.lineage
    if not lineage.touches(tensors_in(values)):
        return values

    def mapped(leaf: Any) -> Any:
        like = lineage.likes.get(id(leaf))
        return leaf if like is None else how(like)

    return pytree.tree_map(mapped, values)
