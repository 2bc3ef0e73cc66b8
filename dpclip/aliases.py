"""Detached twins of a module's parameters, which stand in for them while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class _Slot(NamedTuple):
    holder: nn.Module
    leaf: str
    param: nn.Parameter
    alias: Tensor


class Aliases:
    """Lets a module compute with tensors that share its parameters' memory but need no gradient.

    They are made once; a parameter whose memory has moved (`module.to`, `p.data = ...`) gets a new
    one.

    Args:
        module: the module.
        names: of its parameters, relative to it.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self._slots = [_slot(module, name) for name in names]
        self._recurrent = [m for m in module.modules() if isinstance(m, nn.RNNBase)]
        self._calls: list[bool] = []  # of the module, one inside the other: were twins wanted?

    def enter(self, wanted: bool) -> None:
        """Begins a call of the module, with the twins in place if they are wanted.

        Raises:
            RuntimeError: another parameter has taken the place of one.
        """
        if wanted and True not in self._calls:
            for i, (holder, leaf, param, alias) in enumerate(self._slots):
                if holder._parameters[leaf] is not param:
                    self._put_back()
                    raise RuntimeError(
                        f"Parameter {leaf!r} of {type(holder).__name__} was replaced after "
                        "make_private. Call close() on the engine and make_private again."
                    )
                if alias.data_ptr() != param.data_ptr() or alias.dtype != param.dtype:
                    alias = param.detach()
                    self._slots[i] = _Slot(holder, leaf, param, alias)
                holder._parameters[leaf] = alias  # type: ignore[assignment]
            self._refresh()
        self._calls.append(wanted)

    def leave(self) -> bool:
        """Ends a call of the module; returns True if twins were in place."""
        wanted = bool(self._calls) and self._calls.pop()
        if wanted and True not in self._calls:
            self._put_back()
        return wanted

    def reset(self) -> None:
        """Ends all calls, those that were interrupted too."""
        if self._calls:
            self._calls.clear()
            self._put_back()

    def _put_back(self) -> None:
        for holder, leaf, param, alias in self._slots:
            if holder._parameters[leaf] is alias:
                holder._parameters[leaf] = param
        self._refresh()

    def _refresh(self) -> None:
        """Recurrent layers read their weights from a list of their own."""
        for holder in self._recurrent:
            names = holder._flat_weights_names
            holder._flat_weights = [holder._parameters.get(n) for n in names]


def _slot(module: nn.Module, name: str) -> _Slot:
    path, _, leaf = name.rpartition(".")
    holder = module.get_submodule(path)
    param = holder._parameters[leaf]
    assert param is not None
    return _Slot(holder, leaf, param, param.detach())
