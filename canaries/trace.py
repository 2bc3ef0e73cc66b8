"""What happened to gradient canaries, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Moment(Protocol):
    """What the engine tells of a step; see `dpclip.types.Moment`."""

    @property
    def step(self) -> int:
        """Steps before it."""

    @property
    def claimed(self) -> float | None:
        """C, the longest a weighted group can be, as promised."""

    @property
    def bound(self) -> float | None:
        """The longest that the weighting in force leaves a group; None if it bounds nothing."""

    @property
    def swings(self) -> bool:
        """Whether a record can turn its group round."""

    @property
    def rate(self) -> float | None:
        """The sampling rate q."""

    @property
    def divisor(self) -> float:
        """D."""


class Step(NamedTuple):
    """What happened in one step, at the m + k places that are looked at.

    Attributes:
        moment: what the engine told.
        amounts: [m] what each canary added.
        without: what one adds that is not drawn.
        own: [m + k] what the data's groups put there, times D.
        seen: [m + k] what was released there, times D.
    """

    moment: Moment
    amounts: NDArray[np.float64]
    without: float
    own: NDArray[np.float64]
    seen: NDArray[np.float64]


class Trace:
    """What happened so far.

    Attributes:
        steps: [T] those that released something.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._open: Step | None = None

    def begin(self, step: Step) -> None:
        """Takes a step that is not released yet; it may be given up."""
        self._open = step

    def shrink(self, factor: float) -> None:
        """Multiplies what the step that is not released yet consists of."""
        if self._open is not None:
            moment, amounts, without, own, _ = self._open
            self._open = Step(moment, amounts * factor, without * factor, own * factor, own)

    def end(self, look: Callable[[], NDArray[np.float64]]) -> None:
        """Takes what the same step released."""
        if self._open is not None:
            seen = look() * self._open.moment.divisor
            self.steps.append(self._open._replace(seen=seen))
            self._open = None

    def own(self) -> NDArray[np.float64]:
        """[T, m + k]."""
        return np.stack([step.own for step in self.steps])
