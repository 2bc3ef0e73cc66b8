"""Running an operation on parameters and samples so that what comes back can be told apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dpclip.groups import Groups
from dpclip.ops.again import Again, Weight
from dpclip.ops.around import Around, Parts
from dpclip.ops.books import Books
from dpclip.ops.kept import Kept, refuse_half
from dpclip.ops.likes import Like
from dpclip.ops.lineage import Lineage
from dpclip.ops.places import ALONE, Place, Where
from dpclip.ops.recurrence import KINDS, recurrence, seen
from dpclip.ops.rerun import Rerun
from dpclip.ops.rules import RULES
from dpclip.ops.table import Call, Use
from dpclip.ops.visit import Visit
from dpclip.outputs import float_tensors
from dpclip.parts import Formed, Part


class Shared(Exception):
    """Raised for an operation that turned out to hold no samples."""


class Capturing:
    """Captures operations during one forward.

    Args:
        around: the forward.
        lineage: tells tensors apart.
        visits: the calls of modules that are running, the innermost last.
    """

    def __init__(self, around: Around, lineage: Lineage, visits: Sequence[Visit]) -> None:
        self._around, self._lineage, self._visits = around, lineage, visits
        self._books = Books(around.host)
        self.attention = False  # within F.multi_head_attention_forward on [T, B, d]

    @property
    def label(self) -> str:
        """How messages call the module that is running."""
        return self._visits[-1].unit.label

    def run(self, call: Call, certain: bool) -> Any:
        """Returns what an operation returns, with hooks that wait for its gradient.

        Args:
            call: the operation.
            certain: whether another tensor in it is known to depend on samples.

        Raises:
            Shared: no sample has an influence on it.
        """
        self._lineage.watch_strays(call)
        if call.func in KINDS:
            return self._recurrent(call)
        rule = RULES.get(call.func)
        writes = _writes(call)
        if writes and (rule is None or call.like(call.args[0])):
            raise RuntimeError(
                f"{self.label} changes a tensor in place by {call.name} with its "
                f"parameter {call.names[0]!r} in it. Use the out-of-place operation, torch.cat "
                "or torch.where."
            )
        use = rule(call) if rule else None
        bare = self._lineage.without_graph
        out = call.func(*bare(call.args), **bare(call.kwargs))
        if use is None:
            return self._unruled(call, certain, out)
        place = self._place(call, out, use.barred, certain or writes)
        if place is None:
            raise Shared
        return self.tap(out, use, place)

    def tap(self, out: Tensor, use: Use, place: Place) -> Tensor:
        """Returns an output with a hook that gives the parts of what was used."""
        books, rows, label = self._books, self._around.rows, self.label
        kept = Kept(use.saved, label)

        def form(grad: Tensor, groups: Groups) -> Parts:
            refuse_half(grad, label)
            kept.check()
            books.begin()
            parts: Parts = {}
            for like, part in use.form(grad, Where(place, rows, groups)):
                books.put(parts, like, part, groups)
            return parts

        return self._around.host.tap(out, form)

    def handed_on(self, like: Like, axes: Collection[int]) -> Place | None:
        """Returns where the samples are in a like that was expanded to B along some axes."""
        others = [axis for axis in range(like.tensor.dim()) if axis not in axes]
        return self._place(Call(_handed_on, (), {}, [like]), like.value, others, True)

    def grows(self, tensor: Tensor) -> bool:
        """Returns True if a tensor that no sample has an influence on has their axis anyway."""
        if self._around.rows == 1:
            return False
        return self._place(Call(_handed_on, (), {}, []), tensor, (), False) is not None

    def as_samples(self, like: Like, place: Place) -> Tensor:
        """Returns a like in which each sample has a gradient of its own.

        Args:
            like: with axes of size 1, or expanded, where the samples are to be.
            place: where they are to be.
        """
        rows, core, shape = self._around.rows, like.core.shape, like.tensor.shape
        sizes = [rows if a == place.axis and n == 1 else n for a, n in enumerate(shape)]

        def form(grad: Tensor, where: Where) -> Iterator[tuple[Like, Part]]:
            yield like, Formed(where.summed(where.first(grad), core, grad.dim()))

        return self.tap(like.value.expand(sizes), Use(form), place)

    def _place(
        self,
        call: Call,
        tensor: Tensor,
        barred: Collection[int],
        certain: bool,
        which: str = "",
    ) -> Place | None:
        """Returns where the samples are in a tensor, None if it holds none."""
        rows = self._around.rows
        if rows == 1:
            return ALONE
        if self.attention:  # [T, B, d] and [T B, d]
            if tensor.dim() == 3 and tensor.shape[1] == rows:
                return Place(1)
            if tensor.dim() == 2 and len(tensor) % rows == 0:
                return Place(0, len(tensor) // rows, 1)
        key = self._visits[-1].key(call.name + which, call.names, tensor.dim())
        return self._around.settler.settle(key, tensor, rows, barred, certain)

    def _recurrent(self, call: Call) -> tuple[Tensor, ...]:
        """Returns what a recurrent layer returns."""
        books, rows, host = self._books, self._around.rows, self._around.host
        given = recurrence(call, self.label)
        others = {0, 1, 2} - {given.axis}
        place = self._place(call, given.input, others, True)
        assert place is not None
        place = place if place is ALONE else place._replace(axis=0)
        likes = [call.like(weight) for weight in given.weights]

        def capture(i: int, a: Tensor | None, g: Tensor) -> None:
            like = likes[i]
            if like is None:
                return

            def form(groups: Groups) -> Parts:
                books.begin()
                parts: Parts = {}
                books.put(parts, like, seen(a, g, Where(place, rows, groups)), groups)
                return parts

            host.take(form)

        given = given._replace(hx=self._states(call, given.hx, place))
        return given.run([self._lineage.without_graph(w) for w in given.weights], capture)

    def _states(self, call: Call, hx: Any, place: Place) -> Any:
        """Returns the states [layers, B, H] that a recurrence starts with, learned ones tapped."""
        if not isinstance(hx, Tensor):
            return tuple(self._states(call, state, place) for state in hx)
        like = call.like(hx)
        if like is None:
            return hx
        return self.as_samples(like, place if place is ALONE else place._replace(axis=1))

    def _unruled(self, call: Call, certain: bool, out: Any) -> Any:
        """Returns `out` with hooks that wait for all its gradients and run the operation again."""
        outputs: list[tuple[Tensor, Place]] = []
        for number, tensor in enumerate(float_tensors(out)):
            place = self._place(call, tensor, (), certain, f", output {number}")
            if place is None:
                raise Shared
            outputs.append((tensor.detach().clone(), place))
        leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
        likes = {i: like for i, leaf in enumerate(leaves) if (like := call.like(leaf))}
        places = self._input_places(call, leaves)
        known = [(leaves[i].shape, place) for i, place in places.items()]
        known += [(tensor.shape, place) for tensor, place in outputs]
        weights = {i: _weight(like, known) for i, like in likes.items()}
        bare = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        label, host = self.label, self._around.host
        again = Again(call.func, bare, spec, weights, places, outputs, _autocast(bare), label)
        kept = Kept([leaf for leaf in bare if isinstance(leaf, Tensor)], label)
        rerun = Rerun(again, list(likes.values()), self._around.rows, kept, self._books, host)
        forms = map(rerun.form, range(len(outputs)))

        def tap(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return value
            return host.tap(value, next(forms))

        return pytree.tree_map(tap, out)

    def _input_places(self, call: Call, leaves: Sequence[Any]) -> dict[int, Place]:
        places: dict[int, Place] = {}
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor) or call.like(leaf):
                continue
            if leaf.requires_grad or self._lineage.may_hold_samples(leaf):
                place = self._place(call, leaf, (), leaf.requires_grad, f", input {i}")
                if place is not None:
                    places[i] = place
        return places


def _handed_on() -> None:
    """Stands for what another module does with a tensor."""


def _writes(call: Call) -> bool:
    """Returns True for an operation in place."""
    if call.name.startswith("__"):
        return call.func is Tensor.__setitem__ or call.name.startswith("__i")
    return call.name.endswith("_") or call.kwargs.get("out") is not None


def _weight(like: Like, known: Sequence[tuple[torch.Size, Place]]) -> Weight:
    """Returns what a rerun needs of a like, given (shape, place) of the tensors around it."""
    shape, core = like.tensor.shape, like.core.shape
    for other, place in known:
        axis = place.axis
        if len(other) == len(shape) and core[axis] != shape[axis] == other[axis] and axis >= 0:
            return Weight(like.bare, shape, place)
    return Weight(like.bare, shape, None)


def _autocast(values: Sequence[Any]) -> tuple[str, torch.dtype, bool]:
    device = next(v.device.type for v in values if isinstance(v, Tensor))
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
