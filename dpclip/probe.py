"""Asking the model itself about its shapes, by running it once more without hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.outputs import float_tensors
from dpclip.units import Unit


class Shapes(NamedTuple):
    """Shapes of one plain forward.

    Attributes:
        each: (unit, call, output number, dimensions) -> shape of that output.
        last: (unit, output number) -> shape of its last output.
        model: shapes of what the model returned; None if it could not be run.
    """

    each: dict[tuple[str, int, int, int], torch.Size]
    last: dict[tuple[str, int], torch.Size]
    model: list[torch.Size] | None


def plain_shapes(
    model: nn.Module, call: tuple[Any, Any], units: Sequence[Unit], less: tuple[int, int] | None
) -> Shapes:
    """Returns the shapes of every unit's outputs and of the model's.

    Nothing is differentiated and the random number generators are left as they were; forward
    hooks of the user's see an additional call.

    Args:
        model: the model, with our own hooks disabled.
        call: (args, kwargs) of the forward that is running.
        units: whose outputs are of interest.
        less: (B, axis) to run on B - 1 samples: an axis that is one shorter there is a batch axis.
    """

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if less is None or leaf.dim() <= less[1] or leaf.shape[less[1]] != less[0]:
            return leaf.detach()
        return leaf.detach().narrow(less[1], 0, less[0] - 1).clone()

    found, turns = Shapes({}, {}, None), Counter[str]()

    def note(unit: Unit) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            for number, tensor in enumerate(float_tensors(output)):
                found.each[unit.name, turns[unit.name], number, tensor.dim()] = tensor.shape
                found.last[unit.name, number] = tensor.shape
            turns[unit.name] += 1

        return hook

    args, kwargs = pytree.tree_map(cut, call)
    handles = [unit.module.register_forward_hook(note(unit)) for unit in units]
    try:
        with torch.random.fork_rng(devices=_devices()), torch.no_grad():
            output = model(*args, **kwargs)
    except Exception:  # a model may take no other batch; then nothing more is learned
        return found
    finally:
        for handle in handles:
            handle.remove()
    return found._replace(model=[t.shape for t in float_tensors(output)])


def _devices() -> Sequence[int]:
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
