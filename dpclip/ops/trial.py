"""Trying out where samples are: run the model again, change one sample, see what changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.groups import Groups
from dpclip.ops.around import Parts
from dpclip.ops.places import ALONE, Place, candidates, samples_first
from dpclip.ops.settling import Findings, Key, Verdict

_MOST_INPUTS = 4
"""Of a model with more batched inputs, the others are not tried."""


class Noted(NamedTuple):
    """A tensor that was met, and the axes that cannot be its batch's."""

    tensor: Tensor
    barred: Collection[int]


class Recorder:
    """Takes the place of a `Settler` in a trial: notes tensors, settles nothing.

    Args:
        constant: what is known to be alike for all samples.
    """

    def __init__(self, constant: Callable[[Key], bool]) -> None:
        self._constant = constant
        self.met: dict[Key, Noted] = {}

    def settle(
        self, key: Key, tensor: Tensor, rows: int, barred: Collection[int], certain: bool
    ) -> Place | None:
        """Notes a tensor."""
        if not certain and (self._constant(key) or not candidates(tensor.shape, rows, barred)):
            return None
        self.met[key] = Noted(tensor.detach().clone(), barred)
        return ALONE


def findings(
    run: Callable[[Any, int], dict[Key, Noted]], call: Any, rows: int, declared: int
) -> Findings:
    """Returns where samples are in the tensors of a forward pass.

    Args:
        run: runs the model on (call, B), always with the same random numbers.
        call: (args, kwargs).
        rows: B.
        declared: the batch axis of the inputs.
    """
    before = run(call, rows)
    found: dict[Key, set[Place]] = {}
    mixed: set[Key] = set()
    for first, changed, sample in _changes(call, rows, declared):
        after = run(changed, rows)
        for key, (tensor, barred) in before.items():
            if key not in after or after[key].tensor.shape != tensor.shape:
                continue
            differs = _differs(tensor, after[key].tensor)
            if not differs.any():
                continue
            fitting = {
                place
                for place in candidates(tensor.shape, rows, barred)
                if _touched(differs, place, rows) == [sample]
            }
            if fitting:
                found[key] = found.get(key, fitting) & fitting
            elif first and key not in found:
                mixed.add(key)
        if all(len(found.get(key, ())) == 1 for key in before):
            break
    mixed -= found.keys()
    if before.keys() - found.keys() - mixed:  # what no sample changes may grow with them
        after = run(_longer(call, rows, declared), rows + 1)
        for key in before.keys() - found.keys() - mixed:
            if key in after:
                found[key] = _grown(before[key], after[key], rows)
    if mixed:
        again = run(call, rows)
        steady = [k for k in mixed if k in again and not _changed(before[k], again[k])]
        unsteady = mixed - set(steady)
    else:
        unsteady = set()
    return {
        key: Verdict(tuple(found.get(key, ())), key in mixed)
        for key in before
        if key not in unsteady
    }


def _longer(call: Any, rows: int, declared: int) -> Any:
    """Returns a call on B + 1 samples."""

    def more(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() <= declared or leaf.shape[declared] != rows:
            return leaf
        leaf = leaf.detach()
        return torch.cat([leaf, leaf.narrow(declared, rows - 1, 1)], declared)

    return pytree.tree_map(more, call)


def _grown(before: Noted, after: Noted, rows: int) -> set[Place]:
    """Returns the places at which a tensor has room for one more sample."""
    was, now = before.tensor.shape, after.tensor.shape
    return {
        place
        for place in candidates(was, rows, before.barred)
        if list(now) == [n + n // rows if axis == place.axis else n for axis, n in enumerate(was)]
    }


def _changes(call: Any, rows: int, declared: int) -> Iterator[tuple[bool, Any, int]]:
    """Yields (is it the first input, a call in which one sample is another, its number)."""
    leaves, spec = pytree.tree_flatten(call)
    batched = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.dim() > declared and leaf.shape[declared] == rows
    ]
    for i in batched[:_MOST_INPUTS]:
        for sample, value in _others(leaves[i].detach().movedim(declared, 0)):
            changed = leaves[i].detach().clone()
            changed.select(declared, sample).copy_(value)
            with_it = [*leaves[:i], changed, *leaves[i + 1 :]]
            yield i == batched[0], pytree.tree_unflatten(with_it, spec), sample


def _others(rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields (number of a sample, something else to put there)."""
    for sample in (len(rows) - 1, 0):
        unequal = (rows != rows[sample]).reshape(len(rows), -1).any(1).nonzero().flatten().tolist()
        for other in (unequal[:1], unequal[1:][-1:]):
            if other:
                yield sample, rows[other[0]]
        if rows.is_floating_point():
            yield sample, rows[sample] * -0.5 + 0.25


def _changed(one: Noted, other: Noted) -> bool:
    same = one.tensor.shape == other.tensor.shape
    return not same or bool(_differs(one.tensor, other.tensor).any())


def _differs(one: Tensor, other: Tensor) -> Tensor:
    """Returns where two tensors differ by more than rounding."""
    if not one.is_floating_point():
        return one != other
    gap = (one - other).abs()
    odd = one.isfinite() != other.isfinite()
    finite = gap.nan_to_num(0.0, 0.0, 0.0)
    return odd | (finite > 1e-3 * finite.max()) & (finite > 4 * _rounding(one))


def _rounding(tensor: Tensor) -> Tensor:
    largest = tensor.abs().nan_to_num(0.0, 0.0, 0.0).max()
    return torch.finfo(tensor.dtype).eps * largest


def _touched(differs: Tensor, place: Place, rows: int) -> list[int]:
    found = samples_first(differs, place, rows).reshape(rows, -1).any(1)
    touched: list[int] = found.nonzero().flatten().tolist()
    return touched


def run_once(model: nn.Module, call: tuple[Any, Any]) -> None:
    """Runs the model; no backward will come, and nothing random or stored is left changed."""
    devices: Sequence[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    args, kwargs = call
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(_dropped, _dropped),
        ):
            model(*args, **kwargs)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for buffer, kept in buffers:
            if not torch.equal(buffer, kept):
                buffer.data.copy_(kept)  # without a new version: others may have saved it


def _dropped(_tensor: Any) -> Any:
    """Keeps nothing for a backward."""


class Nothing:
    """A host that captures nothing."""

    def tap(self, output: Tensor, form: Callable[[Tensor, Groups], Parts]) -> Tensor:
        """Returns the output, requiring a gradient if it did not."""
        if output.requires_grad:
            return output
        return output * output.new_ones(()).requires_grad_()

    def take(self, form: Callable[[Groups], Parts]) -> None:
        """Does nothing: no backward comes."""

    def defer(self, form: Callable[[Groups], Parts]) -> None:
        """Does nothing: no backward comes."""
