"""Asking the model itself where its batch axes are, by running it on one sample less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.layers.functional import float_tensors
from dpclip.units import Unit

Shapes = dict[tuple[str, int, int], torch.Size]
"""(unit, output number, dimensions) -> shape of the first such output."""


def shapes_of_one_less(
    model: nn.Module, call: tuple[Any, Any], rows: int, axis: int, units: Sequence[Unit]
) -> Shapes:
    """Returns the shapes of every unit's outputs in a batch of rows - 1 samples.

    An axis that is one shorter there is a batch axis. Nothing is differentiated and the random
    number generators are left as they were; forward hooks of the user's see an additional call.
    Whatever fails leaves the result incomplete.

    Args:
        model: the model, with our own hooks disabled.
        call: (args, kwargs) of the forward that is running.
        rows: B > 1.
        axis: the batch axis of its inputs.
        units: whose outputs are of interest.
    """

    def less(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.dim() > axis and leaf.shape[axis] == rows
        return leaf.detach().narrow(axis, 0, rows - 1).clone() if batched else leaf

    found: Shapes = {}

    def note(unit: Unit) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            for number, tensor in enumerate(float_tensors(output)):
                found.setdefault((unit.name, number, tensor.dim()), tensor.shape)

        return hook

    args, kwargs = pytree.tree_map(less, call)
    handles = [unit.module.register_forward_hook(note(unit)) for unit in units]
    try:
        with torch.random.fork_rng(devices=_devices()), torch.no_grad():
            model(*args, **kwargs)
    except Exception:  # a model may take no other batch; then nothing is learned
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def _devices() -> Sequence[int]:
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
