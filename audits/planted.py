"""Canaries as an audit sees them: who is in, how often, and their held-out twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Planted:
    """A training set with canaries in it, and what is needed to look for them.

    Attributes:
        train: data and canary copies.
        ids: [n] names of the canaries; scores are joined to them.
        families: [n] the recipe of each.
        repetitions: [n] its tier: how often it is in `train` if its coin says so.
        inserted: [n] the coins.
        records: [n] the canaries themselves.
        references: family -> held-out records of the same recipe (none where all are enumerated).
        budget: share of `train` that is canary copies.
        manifest: hash of what was declared before training.
    """

    train: Dataset[Any]
    ids: Sequence[str]
    families: NDArray[np.str_]
    repetitions: NDArray[np.int64]
    inserted: NDArray[np.bool_]
    records: Sequence[Any]
    references: Mapping[str, Sequence[Any]]
    budget: float
    manifest: str

    def members(self, family: str) -> NDArray[np.int64]:
        """Returns the canary numbers of one family."""
        return np.flatnonzero(self.families == family)

    def tier(self, repetitions: int) -> NDArray[np.bool_]:
        """Returns [n], which canaries are inserted so often."""
        chosen: NDArray[np.bool_] = self.inserted & (self.repetitions == repetitions)
        return chosen
