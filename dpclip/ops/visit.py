"""One call of a module whose parameters are captured where they are used."""

from __future__ import annotations

from collections import Counter

from dpclip.ops.around import Watched
from dpclip.ops.likes import Like, origin
from dpclip.ops.settling import Key
from dpclip.swapping import put, swap


class Visit:
    """A call of a module, with aliases in place of its parameters.

    Args:
        unit: the module.
        turn: how many calls of it there were before in this forward.

    Attributes:
        likes: the aliases.
    """

    def __init__(self, unit: Watched, turn: int) -> None:
        self.unit, self._turn = unit, turn
        origins = [origin(unit.label, name, param) for name, param in unit.params.items()]
        self.likes = [Like(each.alias, each.alias, True, (each,)) for each in origins]
        self._counts: Counter[tuple[str, tuple[str, ...], int]] = Counter()
        self._swapped = [swap(unit.module, each.name, each.alias) for each in origins]

    def key(self, operation: str, names: tuple[str, ...], dims: int) -> Key:
        """Returns what memory calls the next such tensor."""
        counted = operation, names, dims
        number = self._counts[counted]
        self._counts[counted] += 1
        return Key(self.unit.name, *counted, number, self._turn)

    def end(self) -> None:
        """Gives the module its parameters back."""
        while self._swapped:
            put(*self._swapped.pop())
