"""Real records as canaries, for tasks that bring no recipe of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Subset

from audits.tasks.task import Family, Task


def with_held_out_canaries(task: Task, references: int) -> Task:
    """Returns the task with a fifth of its training set standing by as canaries.

    Which fifth is fixed. Records drawn from it are exchangeable, so the exposure of one that was
    inserted, among those that were not, is that of an ordinary member of the data.
    """
    train: Any = task.train
    order = np.random.default_rng(0).permutation(len(train))
    pool, rest = order[: len(train) // 5], order[len(train) // 5 :]

    def draw(n: int, rng: np.random.Generator) -> Sequence[Any]:
        if n > len(pool):
            raise ValueError(
                f"Task {task.name} has {len(pool)} records standing by for canaries, and {n} are "
                "needed. Use fewer canaries or references, or give the task families of its own."
            )
        return [train[int(i)] for i in rng.choice(pool, n, replace=False)]

    family = Family(draw, task.losses, min(references, len(pool) // 2))
    return dataclasses.replace(
        task, train=Subset(train, rest.tolist()), families={"records": family}
    )
