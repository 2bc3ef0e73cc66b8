"""Gradient canaries: groups of an audit that join the sum of every step, after the clipping.

The auditor is the worst-case adversary, who knows all other records. So what the data put where a
canary is looked for may be subtracted, and scores come with and without that.

    group = dirac(coins, coordinates=d, seed=0)    # d: trainable coordinates of the model
    engine.plant(group)                            # after make_private
    ...                                            # train
    group.observed()                               # [T, m], in units of the sensitivity
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canaries.directions import Coordinates, Directions, Spheres
from canaries.streams import stream
from canaries.trace import Moment, Step, Trace

_MOST = 50_000_000  # coordinates of all random directions together: 400 MB


@dataclass(frozen=True, eq=False)
class GradientCanaries:
    """Canaries that join the sum of weighted groups, for `PrivacyEngine.plant`.

    In a step, an inserted canary is drawn with the sampling rate q of the batch. If the claim is
    about single samples, it then adds C c_i, and else nothing. If one record can turn its group
    round, every canary is a group at -C c_i, and an inserted one that is drawn swings to +C c_i:
    adding C only would have half the sensitivity that is claimed (2 C), and an audit of it could
    never tell that noise made for C is too small. Where the weighting in force bounds nothing, a
    canary enters with its raw length.

    Attributes:
        coins: [m] whether canary i is inserted.
        directions: where each points to.
        coordinates: d, of all trainable parameters together.
        seed: of the draws; those of a step are a function of it and of the step's number.
        raw: length before clipping, in units of C. 0 makes canaries that change nothing.
        trace: what happened so far.
    """

    coins: NDArray[np.bool_]
    directions: Directions
    coordinates: int
    seed: int
    raw: float = 10.0
    trace: Trace = field(default_factory=Trace)

    @property
    def label(self) -> str:
        """How many canaries of what kind."""
        return self.directions.label

    @property
    def ids(self) -> tuple[str, ...]:
        """[m] a name for each canary, to which its score belongs."""
        return tuple(f"gradient/{i}" for i in range(len(self.coins)))

    def fit(self, shapes: Sequence[torch.Size]) -> None:
        """Raises ValueError unless the parameters have d coordinates."""
        if (found := sum(shape.numel() for shape in shapes)) != self.coordinates:
            raise ValueError(
                f"found a model of {found} trainable coordinates; these canaries were made for "
                f"{self.coordinates}. Make them for this model."
            )
        if self.trace.steps:
            raise ValueError(
                f"these canaries already joined {len(self.trace.steps)} steps; make new ones for "
                "another training"
            )

    def join(self, grads: Sequence[Tensor], moment: Moment) -> None:
        """Adds the canaries of a step to L gradients, in place."""
        amounts, without = self._amounts(moment)
        own = self.directions.look(grads) * moment.divisor
        self.trace.begin(Step(moment, amounts, without, own, own))
        self.directions.add(grads, amounts / moment.divisor)

    def shrunk(self, factor: float) -> None:
        """Learns that a trainer has clipped the gradients since then, to `factor` of their length.

        The adversary knows that too. Clipping by value, which changes directions, leaves parts of
        the data in what is observed.
        """
        self.trace.shrink(factor)

    def released(self, grads: Sequence[Tensor]) -> None:
        """Sees what the same step releases."""
        self.trace.end(lambda: self.directions.look(grads))

    def _amounts(self, moment: Moment) -> tuple[NDArray[np.float64], float]:
        """[m] the signed length of each canary in this step, and that of one that is not drawn."""
        claimed = 1.0 if moment.claimed is None else moment.claimed
        length = self.raw * claimed
        if moment.bound is not None:
            length = min(length, moment.bound)
        draws = stream(self.seed, f"canaries.gradient.draws/{moment.step}")
        rate = 1.0 if moment.rate is None else moment.rate
        drawn = self.coins & (draws.random(len(self.coins)) < rate)
        without = -length if moment.swings else 0.0
        return np.where(drawn, length, without), without

    def observed(self, updates: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """[T, m] what was released where each canary is looked for, without the data's own part.

        In units of the claimed sensitivity, from where a canary is that is not drawn: a mechanism
        that is as claimed makes it N(b, sigma^2), b = 1 for a canary that was drawn and 0 else.

        Args:
            updates: [T, d] what a loop says was released, the flattened `p.grad` of each step;
                None for what the engine saw.

        Raises:
            ValueError: no steps, updates that do not fit them, or a step without a promised bound.
        """
        without = np.array([[step.without] for step in self.trace.steps])
        apart, sensitivity = self._apart(updates)
        return np.asarray((apart[:, : len(self.coins)] - without) / sensitivity)

    def scores(
        self, updates: NDArray[np.float64] | None = None, *, subtract: bool = True
    ) -> NDArray[np.float64]:
        """[m] the sum over all steps of what was released where each canary is looked for.

        At q = 1, a Dirac canary of a mechanism with sensitivity C scores N(T C, T sigma^2 C^2) if
        it is inserted and N(0, T sigma^2 C^2) if not: mu = sqrt(T) / sigma.

        Args:
            updates: as in `observed`.
            subtract: whether to leave out the data's own part, as an adversary can who knows all
                other records.

        Raises:
            ValueError: no steps, or updates that do not fit them.
        """
        seen = self._seen(updates)
        if subtract:
            seen = seen - self.trace.own()
        return np.asarray(seen.sum(0)[: len(self.coins)])

    def beside(self, updates: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """[T, k] what was released where no canary is, without the data's own part: noise alone.

        In units of the claimed sensitivity; k is 0 for random canaries. Arguments and errors as in
        `observed`.
        """
        apart, sensitivity = self._apart(updates)
        return apart[:, len(self.coins) :] / sensitivity

    def _apart(
        self, updates: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What was released without the data's part [T, m + k], and the sensitivity [T, 1]."""
        apart = self._seen(updates) - self.trace.own()
        moments = [step.moment for step in self.trace.steps]
        if any(moment.claimed is None for moment in moments):
            raise ValueError(
                "the weighting promises no bound on a group, so a canary has no sensitivity to be "
                "measured in; look at `scores`"
            )
        return apart, np.array([[(1 + it.swings) * (it.claimed or 1.0)] for it in moments])

    def _seen(self, updates: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """[T, m + k], times D."""
        steps = self.trace.steps
        if not steps:
            raise ValueError("the canaries joined no step; plant them and train first")
        if updates is None:
            return np.stack([step.seen for step in steps])
        expected = (len(steps), self.coordinates)
        if updates.shape != expected:
            raise ValueError(
                f"found updates of shape {list(updates.shape)}; expected {list(expected)}, the "
                "flattened p.grad of each step"
            )
        rows = (self.directions.look([torch.from_numpy(row)]) for row in updates)
        return np.stack([row * it.moment.divisor for row, it in zip(rows, steps, strict=True)])


def dirac(
    coins: Sequence[bool] | NDArray[np.bool_],
    *,
    coordinates: int,
    seed: int,
    raw: float = 10.0,
    beside: int = 0,
) -> GradientCanaries:
    """Canaries that own one coordinate each (Nasr et al. 2023; Steinke, Nasr and Jagielski 2023).

    Args:
        coins: [m] whether each is inserted: fair, and independent of everything else.
        coordinates: d, of all trainable parameters together.
        seed: decides the coordinates and the draws.
        raw: length of a canary before clipping, in units of C.
        beside: k, how many further coordinates are watched, on which noise is alone.

    Raises:
        ValueError: no canaries, more places to watch than there are coordinates, or a raw length
            that is negative or not finite.
    """
    tossed = _coins(coins, raw)
    if beside < 0 or len(tossed) + beside > coordinates:
        raise ValueError(
            f"found {len(tossed)} canaries and {beside} coordinates beside them for a model of "
            f"{coordinates}; each needs a coordinate of its own. Use fewer, or a larger model."
        )
    places = stream(seed, "canaries.gradient.coordinates").permutation(coordinates)
    watched = places[: len(tossed) + beside]
    directions = Coordinates(watched[: len(tossed)], watched)
    return GradientCanaries(tossed, directions, coordinates, int(seed), float(raw))


def random_directions(
    coins: Sequence[bool] | NDArray[np.bool_], *, coordinates: int, seed: int, raw: float = 10.0
) -> GradientCanaries:
    """Canaries on the unit sphere of R^d (Andrew et al. 2023, arXiv 2302.03098).

    They overlap by about 1 / sqrt(d), so that their scores are nearly independent only. Canary i
    is the same for the same seed, whatever the others are. Arguments as in `dirac`.

    Raises:
        ValueError: as `dirac`, or canaries that together take more than 400 MB.
    """
    tossed = _coins(coins, raw)
    if coordinates < 1 or len(tossed) * coordinates > _MOST:
        raise ValueError(
            f"found {len(tossed)} canaries of {coordinates} coordinates; expected at least one "
            f"coordinate, and at most {_MOST:,} in all. Use fewer canaries, or `dirac`."
        )
    vectors = np.empty((len(tossed), coordinates))
    for i, vector in enumerate(vectors):
        stream(seed, f"canaries.gradient.direction/{i}").standard_normal(out=vector)
        vector /= np.linalg.norm(vector)
    return GradientCanaries(tossed, Spheres(vectors), coordinates, int(seed), float(raw))


def _coins(coins: Sequence[bool] | NDArray[np.bool_], raw: float) -> NDArray[np.bool_]:
    tossed = np.asarray(coins)
    if tossed.ndim != 1 or tossed.dtype != np.bool_ or not len(tossed):
        raise ValueError(
            f"found coins of dtype {tossed.dtype} and shape {tossed.shape}; expected a bool for "
            "each canary, and a canary at least"
        )
    if not (math.isfinite(raw) and raw >= 0):
        raise ValueError(f"found a raw length of {raw}; expected a finite number of at least 0")
    return tossed
