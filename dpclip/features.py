"""What the model has computed of the samples of a batch, for groupings that look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Features:
    """The output of one module in the last forward pass, flat for each sample.

    Args:
        model: the model.
        which: the module, or its name in the model.
        axis: the batch axis of its output.
        active: whether a forward pass that runs is one of training.

    Raises:
        ValueError: no such module in the model.
    """

    def __init__(
        self, model: nn.Module, which: str | nn.Module, axis: int, active: Callable[[], bool]
    ) -> None:
        module, self._label = _found(model, which)
        self._axis, self._active = axis, active
        self._output: Any = None
        self._slots: Tensor | None = None
        self._handles = (
            model.register_forward_pre_hook(self._forget),
            module.register_forward_hook(self._look),
        )

    def _forget(self, _module: nn.Module, _args: Any) -> None:
        # Features of an earlier forward must not pass for those of one that skips the module.
        if self._active():
            self._output = self._slots = None

    def _look(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._active():
            self._output, self._slots = output, None
            if isinstance(output, Tensor):
                self._output = output.detach()

    def grouped(self, rows: int, assign: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the slots [B] of the samples of the last forward; the same if asked again.

        Args:
            rows: B.
            assign: features [B, any] -> slots [B].

        Raises:
            RuntimeError: the module did not run, or its output has no row for each sample.
        """
        if self._slots is None or len(self._slots) != rows:
            self._slots = assign(self._rows(rows))
            self._output = None
        return self._slots

    def _rows(self, rows: int) -> Tensor:
        output, axis = self._output, self._axis
        if output is None:
            raise RuntimeError(
                f"{self._label} did not run in this forward, so there are no features to form "
                "clusters from. Name a module that every forward calls."
            )
        if not isinstance(output, Tensor) or output.dim() <= axis or output.shape[axis] != rows:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise RuntimeError(
                f"{self._label} returned {found} for {rows} samples: expected one tensor whose "
                f"axis {axis} holds them. Name a module that returns one row for each sample."
            )
        return output.movedim(axis, 0).reshape(rows, -1)

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()


def _found(model: nn.Module, which: str | nn.Module) -> tuple[nn.Module, str]:
    """Returns (module, what messages call it)."""
    for name, module in model.named_modules():
        if which == name if isinstance(which, str) else which is module:
            return module, f"{name or 'the model'} ({type(module).__name__})"
    known = [name for name, _ in model.named_modules() if name]
    label = repr(which) if isinstance(which, str) else f"the {type(which).__name__}"
    raise ValueError(
        f"features: {label} is no module of the model. Expected one of it, or its name: "
        f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
    )
