"""Giving every captured output a batch axis, or saying why there is none.

Most outputs have one that cannot be mistaken. The others are positions that a model embeds once
for all samples, and shapes with T == B; there the model is asked (`dpclip.probe`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.axes import ONCE, Place, known_axis, places
from dpclip.outputs import float_tensors
from dpclip.probe import Shapes, plain_shapes
from dpclip.units import Saved, Unit, widened


class Placement:
    """Where the batch is, in one forward pass after the other.

    Args:
        model: the hooked model.
        units: its captured modules.
        declared: the batch axis of its inputs.
        unhooked: context in which the hooks do nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        declared: int,
        unhooked: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._model, self._units, self._declared = model, units, declared
        self._unhooked = unhooked
        self.enter(None)

    def enter(self, call: tuple[Any, Any] | None) -> None:
        """Begins a forward of the whole model on (args, kwargs); None ends it."""
        self._call = call
        self._turns: Counter[str] = Counter()
        self._less: Shapes | None = None
        self._doubt: dict[tuple[str, int], torch.Size] | None = None

    def turn(self, unit: Unit) -> int:
        """Counts a call of a module; returns how many there were before in this forward.

        A module may be called on samples first and on something that all of them share after.
        """
        if self._call is None:
            return 0
        self._turns[unit.name] += 1
        return self._turns[unit.name] - 1

    def settle(
        self, unit: Unit, rows: int, saved: Saved, turn: int, number: int, value: Tensor
    ) -> tuple[Tensor, int]:
        """Returns (output, its batch axis); one computed once for all samples is expanded.

        Positions are embedded as [T] or [1, T] and broadcast over the batch; their gradient comes
        back summed unless the batch axis is there before.

        Raises:
            RuntimeError: no axis can be the batch axis, or more than one and no way to tell.
        """
        quick = (turn, number, value.shape, rows)
        if quick in unit.settled and self._doubt is None:
            return value, unit.settled[quick]
        known = known_axis(unit.module, number)
        found: Sequence[Place] = places(unit, value, rows, self._declared)
        if known is not None:
            found = [p for p in found if p in {known, "once"}][:1]
        key = (turn, number, value.dim())
        alone = len(found) == 1
        if len(found) > 1 or (found and key not in unit.axes and self._of_itself(saved, rows)):
            found = self._chosen(unit, key, rows, found)
        if not found:
            raise RuntimeError(
                f"{unit.label} returned a tensor of shape {tuple(value.shape)}, in which no axis "
                f"has the batch's {rows} samples. Keep the batch on axis {self._declared} of every "
                "layer, and give what is computed once for all samples a leading axis of 1."
            )
        place = found[0]
        if place == "new" and key not in unit.axes and self._doubt is None:
            self._doubt = {}
        if rows > 1:
            unit.axes[key] = place if isinstance(place, int) else None
        if place == "new":
            saved.stack(rows)
            return value.expand(rows, *value.shape), 0
        if place == "once":
            saved.expand(self._declared, rows)
            return widened(value, self._declared, rows), self._declared
        if self._doubt is not None:
            self._doubt[unit.name, number] = value.shape
        if alone and rows > 1:
            unit.settled[quick] = place
        return value, place

    def _of_itself(self, saved: Saved, rows: int) -> bool:
        """Returns True for inputs that come neither from a captured module nor from the model's.

        Such a constant [T, d] looks like a batch where T == B.
        """
        if rows < 2 or self._call is None or saved.has_graph or not saved.tensors:
            return False
        given = [t for t in pytree.tree_leaves(self._call) if isinstance(t, Tensor)]
        where = {t.untyped_storage().data_ptr() for t in given}
        return not any(t.untyped_storage().data_ptr() in where for t in saved.tensors)

    def _chosen(
        self, unit: Unit, key: tuple[int, int, int], rows: int, found: Sequence[Place]
    ) -> Sequence[Place]:
        """Returns the right one of several readings: the learned, or what the model itself says.

        Raises:
            RuntimeError: B ids may be positions or samples, and the model cannot be asked.
        """
        known, learned = key in unit.axes, unit.axes.get(key)
        if not known and rows > 1 and self._call is not None:
            if self._less is None:
                self._less = self._plain(self._call, (rows, self._declared))
            shape = self._less.each.get((unit.name, *key))
            if shape is not None and self._less.model is not None:
                changed = [a for a in found if isinstance(a, int) and shape[a] == rows - 1]
                known, learned = True, changed[0] if changed else None
                if not changed:
                    return [p for p in found if p in ONCE][:1]
        if known:
            fitting = [p for p in found if p == learned or (learned is None and p in ONCE)]
            return (fitting or found)[:1]
        if "new" in found and rows > 1:
            raise RuntimeError(
                f"{unit.label} got {rows} ids in a batch of {rows}: positions and samples cannot "
                "be told apart. Give positions a leading axis of 1."
            )
        return found[:1]

    def check(self, rows: int, output: Any) -> None:
        """Raises RuntimeError if a batch axis added to positions [T] has changed other shapes."""
        call, seen = self._call, self._doubt
        self.enter(None)
        if call is None or seen is None:
            return
        plain = self._plain(call, None)
        outer = [t.shape for t in float_tensors(output)]
        wrong = plain.model is not None and plain.model != outer
        if rows > 1:
            wrong |= any(shape == (1, *plain.last.get(key, ())) for key, shape in seen.items())
        if wrong:
            for unit in self._units:
                unit.axes.clear()
                unit.settled.clear()
            raise RuntimeError(
                "An embedding of positions [T] got the batch axis that its gradient needs, and "
                "what the model does with it then has another shape (.unsqueeze(0), say). Give "
                "positions a leading axis of 1 where they go in: self.positions(steps[None])."
            )

    def _plain(self, call: tuple[Any, Any], less: tuple[int, int] | None) -> Shapes:
        with self._unhooked():
            return plain_shapes(self._model, call, self._units, less)
