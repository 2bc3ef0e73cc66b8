"""The tasks that Grad Queue and paced batches are compared on."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from torch import nn

from benchmarks.momentum import digits, prose, reuters


def momentum(task) -> float:
    (group,) = task.optimizer([nn.Parameter(nn.Linear(2, 2).weight)], 0.3).param_groups
    assert group["lr"] == 0.3
    return group["momentum"]


def doubling(rates) -> bool:
    return all(b == pytest.approx(2 * a) for a, b in pairwise(rates))


def test_digits_by_momentum():
    task = digits()
    assert (momentum(task), doubling(task.lrs), len(task.lrs)) == (0.9, True, 7)
    assert set(task.families) == {"noise", "mislabelled"}
    assert task.model(0).get_submodule(task.features)


def test_prose_is_a_part_of_the_text():
    task = prose()
    assert (len(task.train), task.name, doubling(task.lrs)) == (1500, "prose", True)
    (family,) = task.families.values()
    space = family.space
    assert space is not None
    assert len(space.losses(task.model(0))) == 10_000
    assert task.model(0).get_submodule(task.features)


def test_the_same_task_every_time():
    assert digits() is digits()


def test_without_a_place_to_read(monkeypatch):
    monkeypatch.delenv("DPCLIP_DATA", raising=False)
    reuters.cache_clear()
    with pytest.raises(ValueError, match="DPCLIP_DATA is not set"):
        reuters()


@pytest.mark.skipif("DPCLIP_DATA" not in os.environ, reason="DPCLIP_DATA is not set")
def test_reuters_by_momentum():
    task = reuters()
    assert (momentum(task), doubling(task.lrs), task.epochs) == (0.9, True, 8)
    assert set(task.families) == {"mislabelled"}
    assert "8: " in task.facts["topics"]
