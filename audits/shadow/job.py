"""A training of shadow models, as any way of training them sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from audits.shadow.recipe import Recipe
from audits.tasks.task import scores


@dataclass(frozen=True, eq=False)
class Job:
    """What to train and to score.

    Attributes:
        recipe: How.
        records: [n] what models are trained on and scored on.
        population: [k] what they are scored on only.
        members: [M, h] numbers of the records of each model.
        seed: Decides every draw.
        steps: Stop after so many; None trains to the end.
        training: Whether layers are in training mode; not, to compare models with dropout.
    """

    recipe: Recipe
    records: Any
    population: Any
    members: NDArray[np.int64]
    seed: int
    steps: int | None = None
    training: bool = True

    def fresh(self, number: int) -> nn.Module:
        """Returns an untrained model, its weights drawn from its own seed."""
        return self.recipe.model(self._seed(number, 1)).train(self.training)

    def randomness(self, number: int) -> int:
        """Returns the seed of what a model draws while it is trained."""
        return self._seed(number, 2)

    def batches(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Yields record numbers [B] step by step; as many steps for every model."""
        rng = np.random.default_rng([self.seed, 3, number])
        size, done = self.recipe.batch_size, 0
        for _ in range(self.recipe.epochs):
            order = rng.permutation(self.members[number])
            for start in range(0, len(order), size):
                if done == self.steps:
                    return
                yield order[start : start + size]
                done += 1

    def signals(self, number: int, model: nn.Module) -> NDArray[np.float64]:
        """Returns [n + k] signals of the records and of the population.

        Raises:
            ValueError: Some are not finite.
        """
        recipe = self.recipe
        parts = (self.records, self.population)
        found = np.concatenate([scores(model, p, recipe.signal, recipe.collate) for p in parts])
        if not np.isfinite(found).all():
            raise ValueError(
                f"{int((~np.isfinite(found)).sum())} of {len(found)} signals of shadow model "
                f"{number} are not finite: its training diverged at learning rate {recipe.lr:g}. "
                "Use a smaller one."
            )
        return found

    def _seed(self, number: int, use: int) -> int:
        return int(np.random.SeedSequence([self.seed, use, number]).generate_state(1)[0])


def train(job: Job, number: int) -> nn.Module:
    """Returns one trained model: a plain loop, which all other ways must agree with."""
    recipe, model = job.recipe, job.fresh(number)
    optimizer = recipe.optimizer(model.parameters(), recipe.lr)
    collate = recipe.collate or torch.utils.data.default_collate
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.randomness(number))
        for batch in job.batches(number):
            optimizer.zero_grad()
            recipe.losses(model, collate([job.records[int(i)] for i in batch])).mean().backward()
            optimizer.step()
    return model
