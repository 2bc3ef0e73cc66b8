"""Shadow models: many models alike, each trained on its own random half of the records.

`train_shadows(recipe_of(task), task.train, models=64, seed=0)` returns their signals [M, n] of all
records, and who was trained on what. `automatic`, `stacked`, `processes` and `one_by_one` are ways
to train them, which change the speed and not the models. `held_out` takes one of them for the
model that is attacked; `row` judges a model of one's own.
"""

from __future__ import annotations

from audits.shadow.models import Held, ShadowModels, held_out
from audits.shadow.recipe import Recipe, recipe_of, stable_logits
from audits.shadow.row import row
from audits.shadow.training import train_shadows
from audits.shadow.ways import Way, automatic, one_by_one, processes, stacked

__all__ = [
    "Held",
    "Recipe",
    "ShadowModels",
    "Way",
    "automatic",
    "held_out",
    "one_by_one",
    "processes",
    "recipe_of",
    "row",
    "stable_logits",
    "stacked",
    "train_shadows",
]
