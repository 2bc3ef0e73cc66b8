"""Ranks by search join the panel's canaries, inserted ones of vast families only."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from audits.extraction import Search
from audits.planted import Planted
from audits.secret_ranks import secret_ranks
from audits.tasks import Family, Task, Vast, digits


def draw(_n: int, _rng: np.random.Generator) -> list[Any]:
    raise AssertionError("canaries are drawn when they are planted")


def number(_model: nn.Module, batch: list[Tensor]) -> Tensor:
    return batch[0][:, 0]


def planted(families: list[str], inserted: list[bool]) -> Planted:
    n = len(families)
    return Planted(
        train=TensorDataset(),
        ids=[str(i) for i in range(n)],
        families=np.array(families),
        repetitions=np.ones(n, dtype=np.int64),
        inserted=np.array(inserted),
        records=[(torch.tensor([float(i)]),) for i in range(n)],
        references={},
        budget=0.0,
        manifest="",
    )


def searching(calls: list[tuple[bool, list[float]]], slack: float = 0.0) -> Vast:
    """A search that ranks a record as ten times what is written in it, plus one."""

    def search(model: nn.Module, records: Any) -> Search:
        written = np.array([float(record[0]) for record in records])
        calls.append((model.training, written.tolist()))
        low = 10 * written + 1
        return Search(np.empty((0, 1)), np.empty(0), low, low + slack * written, 10**9, 7)

    return Vast(10**9, search)


def task(families: dict[str, Family]) -> Task:
    return dataclasses.replace(digits.task({}), families=families, train=TensorDataset())


def test_inserted_canaries_of_vast_families_are_searched() -> None:
    calls: list[tuple[bool, list[float]]] = []
    vast = Family(draw, number, vast=searching(calls))
    panel = planted(["a", "b", "a", "c", "b", "a"], [True, True, False, True, True, True])
    model = nn.Identity().train()
    found = secret_ranks(task({"a": vast, "b": Family(draw, number), "c": vast}), model, panel)
    assert calls == [(False, [0.0, 5.0]), (False, [3.0])] and model.training
    assert found.searched.tolist() == [True, False, False, True, False, True]
    nan = np.nan
    np.testing.assert_array_equal(found.rank, [1, nan, nan, 31, nan, 51])
    np.testing.assert_array_equal(found.lowest, found.highest)
    # Two of family a were inserted: whatever is among its two likeliest fillings is extracted.
    assert found.extracted.tolist() == [True, False, False, False, False, False]
    assert found.evaluations == 14


def test_an_unknown_rank_is_no_number() -> None:
    vast = Family(draw, number, vast=searching([], slack=2.0))
    found = secret_ranks(task({"a": vast}), nn.Identity(), planted(["a", "a"], [True, True]))
    np.testing.assert_array_equal(found.rank, [1, np.nan])
    assert (found.lowest[1], found.highest[1]) == (11, 13)
    assert found.extracted.tolist() == [True, False]


def test_nothing_to_search_is_nothing_found() -> None:
    panel = planted(["a", "a"], [True, False])
    found = secret_ranks(task({"a": Family(draw, number)}), nn.Identity(), panel)
    assert not found.searched.any() and np.isnan(found.rank).all() and found.evaluations == 0
    vast = Family(draw, number, vast=searching([]))
    none = secret_ranks(task({"a": vast}), nn.Identity(), planted(["a"], [False]))
    assert not none.searched.any()


def test_the_model_s_mode_is_put_back_when_a_search_fails() -> None:
    def failing(model: nn.Module, records: Any) -> Search:
        raise ValueError("log_probs returned NaN")

    model = nn.Identity().train()
    vast = Family(draw, number, vast=Vast(10**9, failing))
    with pytest.raises(ValueError, match="NaN"):
        secret_ranks(task({"a": vast}), model, planted(["a"], [True]))
    assert model.training
