"""Labelled records in disjoint parts, as the classification tasks on a user's data have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

_HELD = 500  # records at most in the validation part, and in the pool
_BATCH = 256


class Labelled(NamedTuple):
    """Data in four disjoint parts: inputs [n, ...], labels [n] int64.

    Attributes:
        train: what is trained on.
        validation: for choosing a learning rate.
        pool: held out for canaries.
        test: for reporting.
        classes: their names; a label is a place in this tuple.
        facts: what a report should say of the data.
    """

    train: TensorDataset
    validation: TensorDataset
    pool: TensorDataset
    test: TensorDataset
    classes: tuple[str, ...]
    facts: Mapping[str, str]


class Places(NamedTuple):
    """Which training records go where: places [n] in the whole training part."""

    train: list[int]
    validation: list[int]
    pool: list[int]


def places(records: int, limit: int | None) -> Places:
    """Returns a fixed random division of training records.

    A tenth of them, 500 at most, go into each of validation and pool. Those two don't depend on
    the limit.

    Args:
        records: how many there are.
        limit: how many to train on at most, all that are left if None.

    Raises:
        ValueError: fewer than ten records, or a limit below 1.
    """
    if records < 10:
        raise ValueError(
            f"Found {records} training records, expected at least 10: a tenth of them is held out "
            "for validation, and a tenth for canaries."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"The limit is {limit} training records: expected at least 1.")
    order = np.random.default_rng(0).permutation(records).tolist()
    held = min(_HELD, records // 10)
    rest = order[2 * held :]
    return Places(rest[:limit], order[:held], order[held : 2 * held])


@torch.no_grad()
def accuracy(model: nn.Module, records: Dataset[Any]) -> float:
    """Returns the share of right labels, of a model in eval mode."""
    assert isinstance(records, TensorDataset)
    model.eval()
    parts = zip(*(t.split(_BATCH) for t in records.tensors), strict=True)
    right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in parts)
    return right / len(records)
