"""The closure that an optimizer step may be given."""

from __future__ import annotations

from typing import Any

import torch


def closure_run(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Returns the arguments of a step whose closure was run, before noise is added to what it left.

    The step gets another one, which hands the loss on.
    """
    closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    if "closure" in kwargs:
        return args, {**kwargs, "closure": lambda: loss}
    return (args[0], lambda: loss, *args[2:]), kwargs
