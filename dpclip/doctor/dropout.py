"""A model in training mode whose dropout is off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

_MODULES = (nn.modules.dropout._DropoutNd, nn.RReLU)
_FUNCTIONS = (
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
    *(torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout),
)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Lets the model run in training mode with every dropout off.

    Modules of that kind are put in eval mode; rates that other modules keep as numbers
    (`self.dropout = 0.1`, as attention and recurrent layers do) are zero; torch's functions for it
    return their input.
    """
    modes = [(m, m.training) for m in module.modules()]
    rates = [(m, name, value) for m, _ in modes for name, value in _rates(m)]
    try:
        if not module.training:
            module.train()
        for holder, _ in modes:
            if _drops(holder):
                holder.training = False
        for holder, name, _ in rates:
            vars(holder)[name] = 0.0
        with _NoDropout():
            yield
    finally:
        for holder, name, value in rates:
            vars(holder)[name] = value
        for holder, mode in modes:
            holder.training = mode


def _drops(module: nn.Module) -> bool:
    """Returns True for a module whose whole purpose is to drop something at random."""
    name = type(module).__name__.lower()
    named = "drop" in name or "stochasticdepth" in name
    return isinstance(module, _MODULES) or (named and next(module.parameters(), None) is None)


def _rates(module: nn.Module) -> list[tuple[str, float]]:
    return [(n, v) for n, v in vars(module).items() if "drop" in n and isinstance(v, float) and v]


class _NoDropout(TorchFunctionMode):
    """Lets functions that drop return what they got."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention and (len(args) > 4 or "dropout_p" in kwargs):
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {**kwargs, "dropout_p": 0.0} if "dropout_p" in kwargs else kwargs
        return func(*args, **kwargs)
