"""Finding out where the samples are in a tensor, or saying why that is not known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from dpclip.ops.places import ALONE, Place, candidates


class Key(NamedTuple):
    """One tensor at one operation of one unit.

    Attributes:
        unit: the unit's name.
        operation: the name of the operation, and which of its tensors is meant.
        names: the parameters it uses.
        dims: dimensions of the tensor.
        number: how many such there were before in this call of the unit.
        turn: how many calls of the unit there were before in this forward of the model.
    """

    unit: str
    operation: str
    names: tuple[str, ...]
    dims: int
    number: int
    turn: int


@dataclass(frozen=True)
class Verdict:
    """What a trial says about one tensor.

    Attributes:
        places: where the samples can be; none for a tensor that no sample has an influence on.
        mixed: whether each sample has an influence on more than one can explain.
    """

    places: Collection[Place]
    mixed: bool = False


Findings = Mapping[Key, Verdict]


class Settler:
    """Gives tensors the place of their samples.

    Args:
        ask: returns what a trial of the running forward says, None if there can be none.
        declared: the batch axis of the model's inputs.
    """

    def __init__(self, ask: Callable[[], Findings | None], declared: int) -> None:
        self._ask, self._declared = ask, declared
        self._known: dict[Key, Place | None] = {}  # of any turn
        self._tried: set[tuple[str, str, tuple[str, ...]]] = set()
        self.constants = 0  # how many tensors were found to be alike for all samples

    def settle(
        self, key: Key, tensor: Tensor, rows: int, barred: Collection[int], certain: bool
    ) -> Place | None:
        """Returns the place of B samples in a tensor, None for one that is alike for all samples.

        Sizes alone settle nothing where T == B or d == 2 B; and a module may mix samples. So each
        operation is tried once, the first time it is met; then sizes and memory are enough.

        Args:
            key: which tensor.
            tensor: the tensor.
            rows: B.
            barred: axes that cannot be the batch's.
            certain: whether it is known to depend on samples.

        Raises:
            RuntimeError: no axis can be the batch axis; more than one, and no way to tell; or
                samples are mixed.
        """
        if rows == 1:
            return ALONE
        found = candidates(tensor.shape, rows, barred)
        if not found and certain:
            raise RuntimeError(f"{_what(key, tensor)}, in which no axis {_lacks(rows)}")
        if not found:
            return None
        if self.constant(key) and not certain:
            return None
        known = self._known.get(key._replace(turn=0))
        fitting = [place for place in found if known is not None and known.fits(place)]
        if len(fitting) == 1:
            return fitting[0]
        sure = certain and len(found) == 1
        if not (sure and key[:3] in self._tried):
            findings = self._ask() or {}
            if key in findings:
                self._tried.add(key[:3])
                place = self._judged(key, tensor, rows, findings[key], found, certain)
                self._learn(key, place, findings)
                return place
        return self._guessed(key, tensor, rows, found)

    def constant(self, key: Key) -> bool:
        """Returns True for a tensor that a trial has shown to be alike for all samples."""
        return self._known.get(key._replace(turn=0), ALONE) is None

    def _learn(self, key: Key, place: Place | None, findings: Findings) -> None:
        """Remembers a place, unless another call of the same unit has another."""
        own = key._replace(turn=0)
        turns = [v.places for k, v in findings.items() if k._replace(turn=0) == own]
        if all(set(places) == set(turns[0]) for places in turns):
            self._known[own] = place
            self.constants += place is None

    def _judged(
        self,
        key: Key,
        tensor: Tensor,
        rows: int,
        verdict: Verdict,
        found: Collection[Place],
        certain: bool,
    ) -> Place | None:
        if verdict.mixed:
            raise RuntimeError(
                f"{_what(key, tensor)} that gave other values than before for several samples when "
                "one sample of the batch was changed: samples are mixed, so none has a gradient of "
                "its own, or sorted by what they hold. Compute nothing across the batch."
            )
        if not verdict.places:
            if certain:
                return self._guessed(key, tensor, rows, found)
            return None
        fitting = [place for place in found if place in verdict.places]
        if len(fitting) != 1:
            raise RuntimeError(f"{_what(key, tensor)}, in which {_unclear(rows)}")
        return fitting[0]

    def _guessed(self, key: Key, tensor: Tensor, rows: int, found: Collection[Place]) -> Place:
        """Returns the place that sizes say, where the model cannot be asked."""
        exact = [place for place in found if place.exact]
        declared = [place for place in exact if place.axis == self._declared]
        if len(found) == 1 or (len(exact) == 1 and declared):
            return next(iter(declared or found))
        raise RuntimeError(f"{_what(key, tensor)}, in which {_unclear(rows)}")


def _what(key: Key, tensor: Tensor) -> str:
    return (
        f"{key.unit or 'The model itself'} uses {', '.join(key.names)} in {key.operation}, with a "
        f"tensor of shape {tuple(tensor.shape)}"
    )


def _lacks(rows: int) -> str:
    return (
        f"has the batch's {rows} samples. Keep the batch on one axis, and give what is computed "
        "once for all samples a leading axis of 1."
    )


def _unclear(rows: int) -> str:
    return (
        f"the batch's {rows} samples may be at several places, and running the model once more "
        "with a sample changed did not tell. Call the model as a whole, let it run twice, and keep "
        "the batch on one axis."
    )
