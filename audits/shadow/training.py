"""From records to shadow models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from audits.shadow.halves import halves
from audits.shadow.job import Job
from audits.shadow.models import ShadowModels
from audits.shadow.recipe import Recipe
from audits.shadow.ways import Way, automatic


def train_shadows(
    recipe: Recipe,
    records: Any,
    models: int,
    seed: int,
    population: Any = (),
    ids: Sequence[str] | None = None,
    way: Way | None = None,
) -> ShadowModels:
    """Signals of models that were each trained on a random half of the records.

    Seeds decide initial weights, halves and batches: another way gives the same models to rounding
    (models with dropout draw otherwise when they are stacked, see `ShadowModels.way`).

    Args:
        recipe: How to train and what to read off.
        records: [n] dataset or sequence; an even number.
        models: M, an even number.
        seed: Decides every draw.
        population: [k] records that nobody is trained on, for RMIA.
        ids: [n] names of the records; by default their numbers.
        way: How to train; by default `automatic()`.

    Raises:
        ValueError: Odd or too small numbers, ids that are not one for each record and each once, a
            model that diverged, or what the way cannot do.
    """
    inside = halves(len(records), models, seed)
    names = tuple(map(str, range(len(records))) if ids is None else ids)
    if len(names) != len(records) or len(set(names)) != len(names):
        raise ValueError(
            f"There are {len(names)} ids, {len(set(names))} of them different, for {len(records)} "
            "records; expected one for each, and each once."
        )
    members = np.stack([np.flatnonzero(row) for row in inside])
    found = (way or automatic())(Job(recipe, records, population, members, seed))
    phi, others = np.split(found.phi, [len(records)], axis=1)
    return ShadowModels(names, phi, inside, others, found.way)
