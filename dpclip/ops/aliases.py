"""Other tensors in the slots of a module's parameters."""

from __future__ import annotations

from torch import Tensor, nn


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
