"""Where samples meet: the first module whose output for a record changes with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpclip.outputs import float_tensors

Key = tuple[str, int, int]
"""(module, call, output number)."""


def first_meeting(
    module: nn.Module,
    run: Callable[[Any], object],
    alone: Any,
    beside: Any,
    record: int,
    tolerance: float = 1e-4,
) -> str | None:
    """Returns the label of a module, None if no output was seen to change.

    A module is seen when it returns, so the innermost comes first. Outputs without an axis of
    size 1 alone that is longer in the batch tell nothing.

    Args:
        module: the model.
        run: runs it on a batch.
        alone: a batch of one record.
        beside: a batch in which that record is number `record`.
        record: its number.
        tolerance: of the change, in units of the output's largest entry.
    """
    labels = {name: f"{name or 'the model'} ({type(m).__name__})" for name, m in _named(module)}
    before: dict[Key, Tensor] = {}
    met: list[str] = []

    def keep(key: Key, value: Tensor) -> None:
        before[key] = value.clone()

    def compare(key: Key, value: Tensor) -> None:
        if key in before and not met and _changed(before[key], value, record, tolerance):
            met.append(labels[key[0]])

    with torch.no_grad():
        with _watching(module, keep):
            run(alone)
        with _watching(module, compare):
            run(beside)
    return met[0] if met else None


@contextmanager
def _watching(module: nn.Module, take: Callable[[Key, Tensor], None]) -> Iterator[None]:
    turns = Counter[str]()

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            for number, tensor in enumerate(float_tensors(output)):
                take((name, turns[name], number), tensor.detach())
            turns[name] += 1

        return hook

    handles = [m.register_forward_hook(hook_of(name)) for name, m in _named(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(module.named_modules())


def _changed(alone: Tensor, beside: Tensor, record: int, tolerance: float) -> bool:
    """Returns True if one sample of an output is not what it is alone."""
    for axis in range(min(alone.dim(), beside.dim())):
        if alone.shape[axis] != 1 or beside.shape[axis] <= max(1, record):
            continue
        mine = beside.narrow(axis, record, 1)
        if mine.shape == alone.shape:
            gap, scale = (mine - alone).abs().max(), alone.abs().max()
            return bool(gap > tolerance * scale)
    return False
