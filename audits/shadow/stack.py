"""Models of one shape trained as one: their parameters stacked, their steps taken together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from audits.shadow.job import Job

Randomness = Literal["error", "different"]

ELEMENTWISE: Final[tuple[type[Optimizer], ...]] = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Adagrad,
    optim.Adadelta,
)
"""Optimizers whose step of a stack is the stack of their steps: no norms, no factors."""


class _Loss(nn.Module):
    """A model whose output is its mean loss; functional_call takes only outputs."""

    def __init__(self, model: nn.Module, losses: Any) -> None:
        super().__init__()
        self.model = model
        self.losses = losses

    def forward(self, batch: Any) -> Tensor:
        mean: Tensor = self.losses(self.model, batch).mean()
        return mean


def train_stacked(job: Job, numbers: Sequence[int], randomness: Randomness) -> list[nn.Module]:
    """Returns the trained models, the same as `train` gives one by one, to rounding.

    The sum of all models' losses is differentiated: each model's parameters get the gradient of
    its own loss. Buffers are stacked, too.

    Args:
        job: What to train.
        numbers: Which models.
        randomness: What vmap does when a model draws random numbers: "different" gives every model
            draws of its own, which are not those of `train`.

    Raises:
        ValueError: The optimizer mixes elements of a parameter, or the records don't collate to
            tensors [n, ...].
        RuntimeError: vmap cannot run the model; a control flow that depends on data is one cause.
    """
    recipe = job.recipe
    # Modules keep what is not in their state (a mode, a size): one of them runs for all.
    models = [_Loss(job.fresh(number), recipe.losses).train(job.training) for number in numbers]
    parameters, buffers = stack_module_state(models)
    optimizer = _optimizer(job, models[0], parameters)
    everything = collated(job)

    def loss(parameters: Any, buffers: Any, batch: Any) -> Tensor:
        found: Tensor = functional_call(models[0], (parameters, buffers), (batch,))
        return found

    losses = vmap(loss, randomness=randomness)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.randomness(numbers[0]))
        for rows in zip(*map(job.batches, numbers), strict=True):
            index = torch.from_numpy(np.stack(rows))  # [models, B]
            optimizer.zero_grad()
            losses(parameters, buffers, tree_map(lambda t: t[index], everything)).sum().backward()  # noqa: B023
            optimizer.step()
    return [_taken(model, i, {**parameters, **buffers}) for i, model in enumerate(models)]


def collated(job: Job) -> Any:
    """Returns all records as one batch, whose tensors are [n, ...].

    Raises:
        ValueError: Some tensor is not, or something else than tensors is in the batch.
    """
    n = len(job.records)
    collate = job.recipe.collate or torch.utils.data.default_collate
    batch = collate([job.records[i] for i in range(n)])
    for leaf in tree_leaves(batch):
        if not isinstance(leaf, Tensor) or leaf.shape[:1] != (n,):
            found = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ValueError(f"a batch of all {n} records holds {found}; expected tensors [n, ...]")
    return batch


def _optimizer(job: Job, single: _Loss, stacked: dict[str, Tensor]) -> Optimizer:
    """Returns the recipe's optimizer of the stacked parameters, if it works element by element."""
    recipe = job.recipe
    one = recipe.optimizer(single.model.parameters(), recipe.lr)
    if type(one) not in ELEMENTWISE:
        names = ", ".join(kind.__name__ for kind in ELEMENTWISE)
        raise ValueError(f"the optimizer is {type(one).__name__}; expected one of {names}")
    many = recipe.optimizer(stacked.values(), recipe.lr)  # type: ignore[arg-type]
    if _groups(one) != _groups(many):
        raise ValueError("the optimizer's groups depend on shapes, which stacking changes")
    return many


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{**group, "params": len(group["params"])} for group in optimizer.param_groups]


@torch.no_grad()
def _taken(wrapped: _Loss, number: int, stacked: dict[str, Tensor]) -> nn.Module:
    """Returns the model with its slice of the stacked state."""
    for name, own in (*wrapped.named_parameters(), *wrapped.named_buffers()):
        own.copy_(stacked[name][number])
    return wrapped.model
