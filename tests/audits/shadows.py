"""Parts of recipes for shadow models; a module of its own, which other processes can import."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.data import TensorDataset

from audits.shadow import Recipe, stable_logits

Maker = Callable[[int], nn.Module]


def records(n: int, seed: int = 0) -> TensorDataset:
    """Points whose labels have nothing to do with them: what is known of one was memorized."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=rng, dtype=torch.float64)
    return TensorDataset(x, torch.randint(3, (n,), generator=rng))


def losses(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def minus_loss(model: nn.Module, batch: Any) -> Tensor:
    return -losses(model, batch)


def _seeded(seed: int, *layers: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(*(layer() for layer in layers)).double()


def plain(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), nn.Tanh, lambda: nn.Linear(16, 3))


def dropout(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), nn.Dropout, lambda: nn.Linear(16, 3))


def batch_norm(seed: int) -> nn.Module:
    return _seeded(
        seed, lambda: nn.Linear(6, 16), lambda: nn.BatchNorm1d(16), lambda: nn.Linear(16, 3)
    )


class Branching(nn.Module):
    """Its control flow depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() if x.mean() > 0 else x.sin()


def branching(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), Branching, lambda: nn.Linear(16, 3))


class FromItsOwnState(nn.Module):
    """Works under vmap, and wrongly: what it has learned is not in its parameters or buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(()) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def stateful(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), FromItsOwnState, lambda: nn.Linear(16, 3))


class Counting(nn.Module):
    """Its buffer, and not only its weights, changes what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += x.detach().abs().mean()
        return x + self.seen


class Noting(FromItsOwnState):
    """Its weights are right under vmap, and the buffer that it uses in eval mode is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noted", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.noted += self.scale
            return x
        return x + self.noted


def noting(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), Noting, lambda: nn.Linear(16, 3))


class DoublingInTraining(nn.Module):
    """Wrong under vmap, and in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(()) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.training else x


def doubling(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), DoublingInTraining, lambda: nn.Linear(16, 3))


class Attending(nn.Module):
    """Uses an operation that vmap has no rule for."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(len(x), 1, 4, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts, parts, parts)
        return mixed.reshape(len(x), 16)


def attending(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), Attending, lambda: nn.Linear(16, 3))


def counting(seed: int) -> nn.Module:
    return _seeded(seed, lambda: nn.Linear(6, 16), Counting, lambda: nn.Linear(16, 3))


def sgd(parameters: Iterable[nn.Parameter], lr: float) -> optim.Optimizer:
    return optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-3)


def adam(parameters: Iterable[nn.Parameter], lr: float) -> optim.Optimizer:
    return optim.Adam(parameters, lr=lr)


class Normalised(optim.SGD):
    """A step that mixes the elements of a parameter, under a known optimizer's name."""


def normalised(parameters: Iterable[nn.Parameter], lr: float) -> optim.Optimizer:
    return Normalised(parameters, lr=lr)


def by_shape(parameters: Iterable[nn.Parameter], lr: float) -> optim.Optimizer:
    """Weight decay on matrices only: a stack of biases looks like a matrix."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return optim.SGD(groups, lr=lr)


def threads_and_process(model: nn.Module, batch: Any) -> Tensor:
    found = torch.ones(len(batch[1]))
    found[0], found[1] = torch.get_num_threads(), os.getpid()
    return found


def recipe(
    model: Maker = plain,
    optimizer: Any = sgd,
    lr: float = 0.1,
    epochs: int = 3,
    signal: Any = stable_logits,
    losses: Any = losses,
) -> Recipe:
    return Recipe(model, losses, optimizer, signal, lr, batch_size=8, epochs=epochs)
