"""What the first step really did, for `engine.doctor()` to look at afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_SOME = 1000


class Witness:
    """Watches the first step, at the cost of one look at each parameter.

    Args:
        params: name -> trainable parameter.

    Attributes:
        reached: parameters that a group gradient came back for.
        std: declared std of the noise on `p.grad`, None before a step.
        squares: sum of squares of the noise that was added, in units of the declared variance.
        coordinates: how many numbers that was.
    """

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = dict(params)
        self.reached: set[nn.Parameter] = set()
        self.std: float | None = None
        self.squares, self.coordinates = 0.0, 0
        self._before: dict[str, Tensor] = {}

    def reach(self, params: Iterable[nn.Parameter]) -> None:
        """Takes the parameters of one backward."""
        self.reached.update(params)

    def begin(self, std: float) -> None:
        """Called before noise of this std is added."""
        self.std = std
        self._before = {name: _some(param.detach()).clone() for name, param in self.params.items()}

    def noise(self, noise: Tensor) -> None:
        """Takes what was added to one gradient."""
        assert self.std
        self.squares += float((noise.double() / self.std).square().sum())
        self.coordinates += noise.numel()

    def unmoved(self) -> list[str]:
        """Returns the names of parameters that are as they were before the first step."""
        pairs = ((name, self.params[name], old) for name, old in self._before.items())
        return [name for name, param, old in pairs if torch.equal(_some(param.detach()), old)]


def _some(values: Tensor) -> Tensor:
    return values.reshape(-1)[:_SOME]
