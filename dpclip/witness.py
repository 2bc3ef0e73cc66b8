"""What the first step really did, for `engine.doctor()` to look at afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

_SOME = 1000


class Added(NamedTuple):
    """The noise that one gradient got.

    Attributes:
        squares: sum of its squares, in units of the declared variance.
        coordinates: how many numbers that was.
    """

    squares: float
    coordinates: int


class Witness:
    """Watches the first step, at the cost of one look at each parameter.

    Args:
        params: name -> trainable parameter.

    Attributes:
        reached: parameters that a group gradient came back for.
        std: declared std of the noise on `p.grad`, None before a step.
        added: the noise of each gradient, in the order of the parameters.
    """

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = dict(params)
        self.reached: set[nn.Parameter] = set()
        self.std: float | None = None
        self.added: list[Added] = []
        self._before: dict[str, Tensor] = {}

    @property
    def complete(self) -> bool:
        """Whether a group gradient came back for every parameter."""
        return len(self.reached) == len(self.params)

    @property
    def squares(self) -> float:
        """Sum of squares of all noise that was added, in units of the declared variance."""
        return sum(added.squares for added in self.added)

    @property
    def coordinates(self) -> int:
        """How many numbers that was."""
        return sum(added.coordinates for added in self.added)

    def reach(self, params: Iterable[nn.Parameter]) -> None:
        """Takes the parameters of one backward."""
        self.reached.update(params)

    def begin(self, std: float) -> None:
        """Called before noise of this std is added."""
        self.std = std
        self._before = {name: _some(param).clone() for name, param in self.params.items()}

    def noise(self, noise: Tensor) -> None:
        """Takes what was added to one gradient."""
        assert self.std
        squares = float((noise.double() / self.std).square().sum())
        self.added.append(Added(squares, noise.numel()))

    def unmoved(self) -> list[str]:
        """Returns the names of parameters that are as they were before the first step."""
        pairs = ((name, self.params[name], old) for name, old in self._before.items())
        return [name for name, param, old in pairs if _alike(_some(param), old)]

    def converted(self) -> list[str]:
        """Returns the names of parameters whose precision or device has changed since then."""
        pairs = ((name, self.params[name], old) for name, old in self._before.items())
        return [n for n, p, old in pairs if (p.dtype, p.device) != (old.dtype, old.device)]


def _some(values: Tensor) -> Tensor:
    return values.detach().reshape(-1)[:_SOME]


def _alike(now: Tensor, before: Tensor) -> bool:
    return torch.equal(now.to("cpu", before.dtype), before.cpu())
