"""Refusing a gradient that reached a parameter past the capture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def refuse_native(
    module: nn.Module, name: str, enabled: Callable[[], bool]
) -> Callable[[Tensor], None]:
    """Returns a hook for a parameter, which autograd calls only if nothing captured its use.

    Args:
        module: the model.
        name: of the parameter.
        enabled: whether the capture is on.
    """

    def raise_native(_grad: Tensor) -> None:
        if not enabled():
            return
        if not module.training:
            raise RuntimeError(
                f"backward() reached parameter {name!r} of a model in eval mode, where nothing "
                "is captured. Call model.train() before the forward pass."
            )
        raise RuntimeError(
            f"Parameter {name!r} got a gradient that no layer captured: its module's forward "
            "was not called, the weight was used as a plain tensor. Call the module itself (with "
            "loop=True the whole model), or freeze the parameter with requires_grad_(False)."
        )

    return raise_native
