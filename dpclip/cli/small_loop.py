"""A small training loop that is as it should be: what the self-test breaks if it is given none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

RECORDS, FEATURES, CLASSES = 64, 20, 4
_HIDDEN = 96
_STEPS, _SIGMA, _BOUND = 16, 4.0, 1.0


def records(seed: int = 0) -> TensorDataset:
    """Returns 64 records of 20 features, normal numbers, and the classes 0 to 3 they fall into."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(RECORDS, FEATURES, generator=draw)
    return TensorDataset(features, features[:, :CLASSES].argmax(1))


def train(engine_factory: Callable[[], Any], dataset: Dataset[Any], seed: int) -> Tensor:
    """Returns [T, d] the released updates: full batches, per-sample clipping, mu = 1.

    Args:
        engine_factory: makes something used like `PrivacyEngine`.
        dataset: of (features, class).
        seed: of the model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(FEATURES, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, CLASSES)
    model: nn.Module = nn.Sequential(*layers)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = engine_factory()
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(dataset, batch_size=RECORDS),
        noise_multiplier=_SIGMA,
        max_grad_norm=_BOUND,
    )
    updates = []
    for _ in range(_STEPS):
        for features, classes in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(features), classes).backward()
            optimizer.step()
            updates.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    engine.close()
    return torch.stack(updates)
