"""What a rule for an operation gets and returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from dpclip.ops.likes import Like, Origin
from dpclip.ops.places import Where
from dpclip.parts import Part

Form = Callable[[Tensor, Where], Iterable[tuple[Like, Part]]]
"""(gradient of the output, where its samples are) -> parts of the likes, in their core's shape."""


class Use(NamedTuple):
    """How parameters are used by one operation.

    Attributes:
        form: gives their parts.
        saved: tensors that `form` will read.
        barred: axes of the output that cannot be the batch's.
    """

    form: Form
    saved: Sequence[Tensor] = ()
    barred: Collection[int] = ()


@dataclass(frozen=True)
class Call:
    """One call of an operation on something that is computed from parameters alone.

    Attributes:
        func: the operation.
        args, kwargs: what it is called with.
        found: the likes among that.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    found: Sequence[Like]

    @property
    def name(self) -> str:
        """What messages and memory call the operation."""
        return getattr(self.func, "__name__", str(self.func))

    def like(self, value: Any) -> Like | None:
        """Returns the like that a value among the arguments is; None for any other value."""
        return next((like for like in self.found if like.tensor is value), None)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The parameters that it uses."""
        if len(self.found) == 1:
            return self.found[0].origins
        return tuple({id(o.alias): o for like in self.found for o in like.origins}.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(origin.name for origin in self.origins)

    def named(self, *names: str) -> list[Any] | None:
        """Returns the arguments in this order, None for those not given.

        None instead of the list if there are others.
        """
        if len(self.args) > len(names) or not self.kwargs.keys() <= set(names):
            return None
        return [*self.args, *(self.kwargs.get(name) for name in names[len(self.args) :])]


Rule = Callable[[Call], Use | None]
"""Returns None for a call that it does not cover. It runs before the operation does."""
