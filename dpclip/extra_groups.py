"""Groups of an audit that join every step beside the groups of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpclip.types import ExtraGroups, Moment, State, Stats, Weighting

_LONG = 1000.0  # length of the group that a weighting is asked about, in units of its bound
_ROUNDING = 1e-5


class Extras:
    """Lets extra groups join each step once, however many passes it takes.

    Attributes:
        groups: what was planted, or None.
    """

    def __init__(self) -> None:
        self.groups: ExtraGroups | None = None
        self._joined: list[tuple[Tensor, int]] = []  # gradients that they are in, with versions
        self._length = 0.0

    @property
    def told(self) -> str:
        """The end of a guarantee."""
        return "" if self.groups is None else f"; {self.groups.label} of an audit joined every step"

    def plant(self, groups: ExtraGroups, params: Sequence[nn.Parameter]) -> None:
        """Takes groups to join the steps from here on.

        Raises:
            ValueError: they do not fit the parameters, or these are of half precision.
            RuntimeError: others were planted before.
        """
        if self.groups is not None:
            raise RuntimeError(
                f"{self.groups.label} were planted before. Put all groups of an audit into one."
            )
        if any(p.dtype.itemsize < 4 for p in params):
            raise ValueError(
                f"{groups.label} would be rounded when they join gradients of half precision. "
                "Keep the weights in float32 and use torch.autocast."
            )
        groups.fit([p.shape for p in params])
        self.groups = groups

    def join(self, grads: Sequence[Tensor], moment: Moment) -> None:
        """Adds the groups to the sum of a step, if they are not in it yet."""
        if self.groups is not None and not self._joined:
            self.groups.join(grads, moment)
            self._joined = [(grad, grad._version) for grad in grads]
            self._length = _length(grads)

    def settle(self) -> None:
        """Tells the groups what became of the sum since they joined, right before the noise."""
        if self.groups is None or all(grad._version == seen for grad, seen in self._joined):
            return
        now = _length([grad for grad, _ in self._joined])
        self.groups.shrunk(now / self._length if self._length else 1.0)

    def released(self, grads: Sequence[Tensor]) -> None:
        """Shows the groups what their step releases."""
        if self.groups is not None:
            self.groups.released(grads)

    def forget(self) -> None:
        """Begins another step."""
        self._joined = []


def _length(grads: Sequence[Tensor]) -> float:
    """Returns the l2 norm of all gradients together."""
    norms = torch._foreach_norm(list(grads), dtype=torch.float64)
    return float(torch.linalg.vector_norm(torch.stack([norm.cpu() for norm in norms])))


def bound_in_force(weighting: Weighting, state: State, layers: int, like: Tensor) -> float | None:
    """Returns the length that `weigh` leaves a very long group; None if it leaves it as it is.

    The weighting itself is asked, not its facts: an audit must see where the two part. A
    weighting that promises no bound is not asked.

    Args:
        weighting: in force.
        state: of it.
        layers: L.
        like: dtype and device of norms.
    """
    claimed = weighting.facts(state).bound
    if claimed is None:
        return None
    long = torch.full((1,), _LONG * claimed, dtype=like.dtype, device=like.device)
    each = (long / layers**0.5).expand(layers, 1)
    one = torch.ones(1, dtype=torch.int64, device=like.device)
    weights, _ = weighting.weigh(Stats(long, each, one, one.bool(), 1.0), state)
    left = float(torch.linalg.vector_norm(weights.expand(layers, 1) * each))
    if not left < _LONG * claimed * (1 - _ROUNDING):  # also NaN
        return None
    return left if left > claimed * (1 + _ROUNDING) else claimed
