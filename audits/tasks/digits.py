"""Task digits: scikit-learn's 1,797 real handwritten digits and a small MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import Dataset, TensorDataset

from audits.tasks.task import Draw, Task, families_of

CLASSES = 10
SHAPE = (64,)
_SPLIT = (1300, 150, 120)  # train, validation, pool for mislabelled canaries; the rest is test


class Digits(NamedTuple):
    """The data in four disjoint parts: images [n, 64] in [0, 1], labels [n]."""

    train: TensorDataset
    validation: TensorDataset
    pool: TensorDataset
    test: TensorDataset


def load() -> Digits:
    """Returns the digits, split in one fixed random order."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(raw.target)))
    images = torch.from_numpy(raw.data).float()[order] / 16
    labels = torch.from_numpy(raw.target).long()[order]
    sizes = [*_SPLIT, len(labels) - sum(_SPLIT)]
    parts = zip(images.split(sizes), labels.split(sizes), strict=True)
    return Digits(*(TensorDataset(x, y) for x, y in parts))


def task(recipes: Mapping[str, Callable[[Digits], Draw]], references: int = 1000) -> Task:
    """Returns the task.

    Args:
        recipes: canary family -> (data -> recipe), e.g. noise images or mislabelled digits.
        references: held-out records of each family that its canaries are ranked among.
    """
    data = load()
    return Task(
        name="digits",
        metric="acc",
        train=data.train,
        validation=data.validation,
        test=data.test,
        model=_model,
        losses=cross_entropies,
        evaluate=accuracy,
        optimizer=_sgd,
        batch_size=64,
        epochs=15,
        lr=0.2,
        lrs=(0.05, 0.2, 0.8, 3.2),
        families=families_of(recipes, data, cross_entropies, references),
        features="3",
    )


def cross_entropies(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Returns [B] cross entropies of (inputs, labels)."""
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels, reduction="none")


@torch.no_grad()
def accuracy(model: nn.Module, records: Dataset[Any]) -> float:
    """Returns the share of right labels."""
    assert isinstance(records, TensorDataset)
    inputs, labels = records.tensors
    model.eval()
    return float((model(inputs).argmax(1) == labels).float().mean())


def _model(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)
        )


def _sgd(parameters: Iterable[nn.Parameter], lr: float) -> SGD:
    return SGD(parameters, lr=lr, momentum=0.9)
