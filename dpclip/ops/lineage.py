"""What is computed from parameters, what from constants, and what may depend on samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dpclip.ops.around import Around
from dpclip.ops.deriving import derived
from dpclip.ops.likes import Like, origin
from dpclip.ops.table import Call

_SEVERAL = (list, tuple)


class Lineage:
    """Tells the tensors of one call of a module apart.

    Args:
        around: the forward.

    Attributes:
        strayed: whether a parameter was used by somebody else than its module.
    """

    def __init__(self, around: Around) -> None:
        self._rows, self._fixed, self._strays = around.rows, around.fixed, around.strays
        self.likes: dict[int, Like] = {}
        self._known = set(around.strays)
        self.strayed = False
        # With the version at which a tensor was one; whatever is written to it may change that.
        self._constants: dict[int, tuple[Tensor, int]] = {}

    def forget(self) -> None:
        """Lets go of every tensor."""
        self.likes, self._constants = {}, {}
        self._known.clear()

    def take_in(self, like: Like) -> None:
        """Remembers a like."""
        self.likes[id(like.tensor)] = like
        self._known.add(id(like.tensor))

    def with_aliases(self, value: Any) -> Any:
        """Returns a nested value with an alias for each parameter that strayed from its module."""
        if id(value) in self._strays:
            name, param = self._strays[id(value)]
            like = self.likes.get(id(value))
            if like is None:
                each = origin("the model", name, param)
                like = self.likes[id(value)] = Like(each.alias, each.alias, True, (each,))
                self.take_in(like)
            return like.tensor
        if isinstance(value, dict):
            return {name: self.with_aliases(v) for name, v in value.items()}
        if value.__class__ in _SEVERAL:
            return type(value)(self.with_aliases(v) for v in value)
        return value

    def watch_strays(self, call: Call) -> None:
        """Notes whether an operation, which has a gradient, uses a parameter that strayed."""
        if self._strays and not self.strayed:
            self.strayed = any(id(o.param) in self.likes for o in call.origins)

    def touches(self, values: Iterable[Any]) -> bool:
        """Returns True if there is a like among values, or in lists and tuples among them."""
        known = self._known
        for value in values:
            if id(value) in known:
                return True
            if value.__class__ in _SEVERAL and self.touches(value):
                return True
        return False

    def likes_in(self, values: Iterable[Any]) -> list[Like]:
        """Returns the likes among values, and in lists and tuples among them."""
        likes, found = self.likes, []
        for value in values:
            if id(value) in likes:
                found.append(likes[id(value)])
            elif value.__class__ in _SEVERAL:
                found += self.likes_in(value)
        return found

    def is_like(self, value: Any) -> bool:
        """Returns True for a tensor that is computed from parameters alone."""
        return id(value) in self.likes

    def is_constant(self, tensor: Tensor) -> bool:
        """Returns True for a tensor that is known to be alike for all samples."""
        if id(tensor) in self.likes:
            return True
        known = self._constants.get(id(tensor))
        if known is not None:
            return known[1] == tensor._version
        return not tensor.requires_grad and id(tensor) in self._fixed()

    def may_hold_samples(self, tensor: Tensor) -> bool:
        """Returns True unless a tensor is constant or has no axis for B samples."""
        return any(size % self._rows == 0 for size in tensor.shape) and not self.is_constant(tensor)

    def note(self, out: Any, given: Any) -> None:
        """Remembers results of an operation that no sample can have had an influence on.

        Args:
            out: what it returned.
            given: its arguments.
        """
        results = [t for t in tensors_in(out) if not t.requires_grad]
        if not results:
            return
        for t in tensors_in(given):
            known = self._constants.get(id(t))
            # What the operation has just written to was constant one version ago.
            if not (self.is_constant(t) or (known is not None and t is out and _just(known))):
                return
        for t in results:
            self._constants[id(t)] = t, t._version

    def adopt(self, call: Call, out: Any) -> None:
        """Remembers results of an operation on parameters and constants."""
        written = call.func is Tensor.__setitem__
        for tensor in tensors_in(call.args[0] if written else out):
            if tensor.requires_grad:
                self.watch_strays(call)
                self.take_in(derived(call, tensor))
            else:
                self._constants[id(tensor)] = tensor, tensor._version

    def without_graph(self, value: Any) -> Any:
        """Returns a nested value with every like detached."""
        like = self.likes.get(id(value))
        if like is not None:
            return like.value
        if isinstance(value, dict):
            return {name: self.without_graph(v) for name, v in value.items()}
        if value.__class__ in _SEVERAL:
            return type(value)(self.without_graph(v) for v in value)
        return value


def _just(known: tuple[Tensor, int]) -> bool:
    return known[0]._version == known[1] + 1


def tensors_in(value: Any) -> list[Tensor]:
    """Returns the tensors of a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, (list, tuple)) or isinstance(value, torch.Size):
        return []
    return [t for v in value for t in tensors_in(v)]
