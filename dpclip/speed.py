"""Settings that change how fast a step is and how much memory it takes, never what it computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dpclip.parts import Convolved, Formed, Outer, Part, Scattered

Memory = Literal["fast", "low"] | int

_CACHE = 2**21
_TRAFFIC = (2, 14)
"""Multiplications that take as long as writing an element of a row and reading it twice, for rows
that stay in the cache (together at most so many bytes) and for rows that don't."""


class Choice(NamedTuple):
    """How the group gradients of one parameter are summed.

    Attributes:
        formed: True if all rows are held at once, False if only their norms and factors are.
        seconds: measured time per step, None where it was chosen by shapes.
        bytes: memory the rows take, 0 where they are not formed.
    """

    formed: bool
    seconds: float | None
    bytes: int


@dataclass
class Chooser:
    """Decides for each parameter, once, whether its rows are formed.

    Attributes:
        memory: "fast" forms rows wherever that is quicker; "low" wherever that takes less memory
            than keeping what they are made of; a number is the bytes that rows may take.
        measure: True times both ways on the live tensors of the first step; False decides by
            shapes, which is the same on every machine.
        made: the choices so far.
    """

    memory: Memory = "fast"
    measure: bool = False
    made: dict[torch.nn.Parameter, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.memory not in ("fast", "low") and not (
            isinstance(self.memory, int) and not isinstance(self.memory, bool) and self.memory >= 0
        ):
            raise ValueError(f'memory={self.memory!r}: expected "fast", "low" or a number of bytes.')

    def choose(
        self, param: torch.nn.Parameter, part: Part, count: int, out: Callable[[], Tensor]
    ) -> Choice:
        """Returns the choice for a parameter.

        Args:
            param: the parameter.
            part: its group gradients in this backward.
            count: G.
            out: makes the buffer that rows would be formed in.
        """
        if param not in self.made:
            self.made[param] = self._decide(param, part, count, out)
        return self.made[param]

    def _decide(
        self, param: torch.nn.Parameter, part: Part, count: int, out: Callable[[], Tensor]
    ) -> Choice:
        size = count * param.numel() * param.element_size()
        if self.memory == "low":
            smaller = isinstance(part, Formed) or size <= held_bytes(part)
            return Choice(smaller, None, size if smaller else 0)
        if isinstance(self.memory, int):
            taken = sum(choice.bytes for choice in self.made.values())
            if taken + size > self.memory and not isinstance(part, Formed):
                return Choice(False, None, 0)
        if self.measure and isinstance(part, (Outer, Convolved)):
            formed, factored = _timed(part, count, out)
            quick = formed <= factored
            return Choice(quick, min(formed, factored), size if quick else 0)
        formed_ = forming_pays(part)
        return Choice(formed_, None, size if formed_ else 0)


def forming_pays(part: Part) -> bool:
    """Returns True if forming all rows is quicker than taking their norms and their sum apart."""
    if isinstance(part, Outer):
        count = max(1, part.groups.count)
        n = part.a.shape[0] * part.a.shape[1] / count
        i, o = part.a.shape[2], part.g.shape[2]
        traffic = _TRAFFIC[count * i * o * part.g.element_size() > _CACHE]
        return n > 1 and min(n * n * (i + o), n * i * o) > traffic * i * o
    return not isinstance(part, Scattered)


def held_bytes(part: Part) -> int:
    """Returns the bytes that stay in use if rows are not formed."""
    if isinstance(part, (Outer, Convolved)):
        return part.a.nbytes + part.g.nbytes
    return part.g.nbytes if isinstance(part, Scattered) else 0


def _timed(part: Part, count: int, out: Callable[[], Tensor]) -> tuple[float, float]:
    """Returns seconds of (forming the rows, taking norms and sum apart), the quicker of two runs."""
    factors = torch.ones(count, device=out().device)

    def form() -> None:
        Formed(part.rows(out())).squares()
        Formed(out()).summed(factors, None)

    def take_apart() -> None:
        part.squares()
        part.summed(factors, None)

    return min(_seconds(form), _seconds(form)), min(_seconds(take_apart), _seconds(take_apart))


def _seconds(work: Callable[[], None]) -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started
