"""Trained shadow models, as attacks see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audits.intervals import check_count
from audits.membership import Population, log_confidence


@dataclass(frozen=True, eq=False)
class ShadowModels:
    """Signals of M shadow models.

    Attributes:
        ids: [n] names of the records; signals of other models are joined to them.
        phi: [M, n] signal of every record under every model, higher = more member-like.
        inside: [M, n], whether the model was trained on the record. Every record is in half of the
            models; models 2j and 2j + 1 have no record in common.
        population: [M, k] signals of records that no model was trained on; k may be 0.
        way: How they were trained, in words.
    """

    ids: tuple[str, ...]
    phi: NDArray[np.float64]
    inside: NDArray[np.bool_]
    population: NDArray[np.float64]
    way: str


class Held(NamedTuple):
    """One shadow model as the target of an attack by the others.

    Attributes:
        target: [n] its signals.
        coins: [n] what it was trained on: the truth to be guessed.
        shadows: [M - 2, n] the others' signals.
        inside: [M - 2, n].
        population: [k] the target's signals of records that nobody was trained on.
        shadow_population: [M - 2, k].
    """

    target: NDArray[np.float64]
    coins: NDArray[np.bool_]
    shadows: NDArray[np.float64]
    inside: NDArray[np.bool_]
    population: NDArray[np.float64]
    shadow_population: NDArray[np.float64]

    def compared(self) -> Population:
        """The population as RMIA takes it, if the signals are stable logits."""
        return Population(log_confidence(self.population), log_confidence(self.shadow_population))


def held_out(shadows: ShadowModels, number: int) -> Held:
    """Model `number` as the target; the model with the other half of the records is left out, too.

    With it, every record would be in fewer of the others if the target has it, which gives the
    answer away.

    Raises:
        ValueError: There is no such model, or no other pair.
    """
    models = len(shadows.phi)
    target = check_count("number", number, 0, models - 1)
    others = np.flatnonzero(np.arange(models) // 2 != target // 2)
    if not len(others):
        raise ValueError("There are 2 shadow models; expected more: one pair is held out.")
    return Held(
        shadows.phi[target],
        shadows.inside[target],
        shadows.phi[others],
        shadows.inside[others],
        shadows.population[target],
        shadows.population[others],
    )
