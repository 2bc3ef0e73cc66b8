"""Tensors that a rule will read in the backward."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def refuse_half(grad: Tensor, label: str) -> None:
    """Raises RuntimeError for a gradient in float16."""
    if grad.dtype == torch.float16:
        raise RuntimeError(
            f"{label} got a float16 gradient. Its range needs loss scaling (GradScaler), which "
            "would scale the rows before they are clipped. Use bfloat16."
        )


class Kept:
    """Remembers the versions of tensors.

    Args:
        tensors: what will be read.
        label: how messages call the module.
    """

    def __init__(self, tensors: Iterable[Tensor], label: str) -> None:
        self._tensors = [(tensor, tensor._version) for tensor in tensors]
        self._label = label

    def check(self) -> None:
        """Raises RuntimeError if one of the tensors was modified in place since."""
        if any(tensor._version != version for tensor, version in self._tensors):
            raise RuntimeError(
                f"An input of {self._label} was changed in place between forward and backward, so "
                "its gradient cannot be formed. Use the out-of-place operation there."
            )
