"""Other tensors in the place of a module's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def swapped(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Lets the module compute with other tensors in place of its parameters.

    Args:
        module: whose parameters are replaced.
        values: qualified parameter name -> tensor.
    """
    undo = [swap(module, name, value) for name, value in values.items()]
    try:
        yield
    finally:
        for holder, leaf, original in reversed(undo):
            put(holder, leaf, original)


def swap(module: nn.Module, name: str, value: Tensor) -> tuple[nn.Module, str, Tensor]:
    """Replaces one parameter and returns (holder, name, original) for `put`."""
    path, _, leaf = name.rpartition(".")
    holder = module.get_submodule(path)
    original = holder._parameters[leaf]
    assert original is not None
    put(holder, leaf, value)
    return holder, leaf, original


def put(holder: nn.Module, leaf: str, value: Tensor) -> None:
    """Sets a parameter slot without nn.Module's check that it is an nn.Parameter."""
    holder._parameters[leaf] = value  # type: ignore[assignment]
    if isinstance(holder, nn.RNNBase):
        # Recurrent layers read their weights from a list of their own.
        names = holder._flat_weights_names
        holder._flat_weights = [holder._parameters.get(n) for n in names]
