"""What the backward passes of one step have left so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from dpclip.passes import OpenGroup
from dpclip.types import State, Stats


@dataclass
class Step:
    """A step that is under way; every step starts with a new one.

    Attributes:
        before: state of the weighting at its start, for a step that is given up.
        passes: backward passes.
        divisor: D, what the sum in `p.grad` is divided by.
        settled: whether it was added up over the ranks.
        open: group whose rows have not all come.
        seen: (statistics, weights) of the passes.
    """

    before: State
    passes: int = 0
    divisor: float = 1.0
    settled: bool = False
    open: OpenGroup = field(default_factory=OpenGroup)
    seen: list[tuple[Stats, Tensor]] = field(default_factory=list)

    @property
    def samples(self) -> float:
        """Samples in the groups that were weighed; asking waits for a device."""
        return float(sum(stats.sizes.sum() for stats, _ in self.seen))
