"""Settings that change how fast a step is and how much memory it takes, never what it computes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dpclip.parts import Convolved, Formed, Outer, Part, Scattered, Separate, form
from dpclip.parts.part import accumulated

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
        memory: "fast" forms rows wherever that is quicker, in a quarter of the device's memory at
            most; "low" wherever that takes less memory than keeping what they are made of; a
            number is the bytes that rows may take together, with as many groups as the first step.
        measure: True times both ways on the live tensors of the first step; False decides by
            shapes, which is the same on every machine.
        made: the choices so far.
    """

    memory: Memory = "fast"
    measure: bool = False
    made: dict[nn.Parameter, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.memory not in ("fast", "low") and not (
            isinstance(self.memory, int) and not isinstance(self.memory, bool) and self.memory >= 0
        ):
            raise ValueError(f'memory={self.memory!r}: expected "fast", "low" or bytes as an int.')

    def choose(
        self, param: nn.Parameter, part: Part, count: int, out: Callable[[], Tensor]
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

    def must_form(self, param: nn.Parameter, count: int) -> None:
        """Notes that a parameter is used in ways whose gradients add up as rows only."""
        self.made[param] = Choice(True, None, _bytes(param, count))

    def formed_by_name(self, names: Mapping[str, nn.Parameter]) -> dict[str, bool]:
        """Returns the choices as plain values, for a checkpoint."""
        return {n: self.made[p].formed for n, p in names.items() if p in self.made}

    def keep(self, names: Mapping[str, nn.Parameter], formed: Mapping[str, bool]) -> None:
        """Takes over choices that `formed_by_name` gave out, so that a run goes on as it began."""
        for name, choice in formed.items():
            self.made[names[name]] = Choice(choice, None, 0)

    def _decide(
        self, param: nn.Parameter, part: Part, count: int, out: Callable[[], Tensor]
    ) -> Choice:
        size = _bytes(param, count)
        if isinstance(part, Separate):
            return Choice(False, None, size)
        if self.memory == "low":
            smaller = size <= held_bytes(part)
            return Choice(smaller, None, size if smaller else 0)
        limit = _share(param.device) if self.memory == "fast" else self.memory
        if sum(choice.bytes for choice in self.made.values()) + size > limit:
            return Choice(False, None, 0)
        seconds = None
        if self.measure:
            formed, apart = _timed(part, count, out)
            pays, seconds = formed <= apart, min(formed, apart)
        else:
            pays = forming_pays(part)
        return Choice(pays, seconds, size if pays else 0)


def forming_pays(part: Part) -> bool:
    """Returns True if forming all rows is quicker than taking their norms and their sum apart."""
    if isinstance(part, Outer):
        count = max(1, part.groups.count)
        n = part.a.shape[0] * part.a.shape[1] / count
        i, o = part.a.shape[2], part.g.shape[2]
        traffic = _TRAFFIC[count * i * o * part.g.element_size() > _CACHE]
        return n > 1 and min(n * n * (i + o), n * i * o) > traffic * i * o
    return isinstance(part, (Formed, Convolved))


def held_bytes(part: Part) -> int:
    """Returns the bytes that stay in use if rows are not formed."""
    if isinstance(part, (Outer, Convolved)):
        return part.a.nbytes + part.g.nbytes
    return part.g.nbytes if isinstance(part, Scattered) else 0


def _bytes(param: nn.Parameter, count: int) -> int:
    """Returns the bytes of rows [G, *shape], which are single precision at least."""
    return count * param.numel() * accumulated(param.dtype).itemsize


def _share(device: torch.device) -> int:
    """Returns a quarter of the device's memory, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _timed(part: Part, count: int, out: Callable[[], Tensor]) -> tuple[float, float]:
    """Returns seconds of (forming the rows, taking norms and sum apart), the best of two runs."""
    factors = torch.ones(count, dtype=out().dtype, device=out().device)

    def hold() -> None:
        form(part, out()).squares()
        Formed(out()).summed(factors, None)

    def take_apart() -> None:
        part.squares()
        part.summed(factors, None)

    return min(_seconds(hold), _seconds(hold)), min(_seconds(take_apart), _seconds(take_apart))


def _seconds(work: Callable[[], None]) -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started
