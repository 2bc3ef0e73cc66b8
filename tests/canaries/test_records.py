from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from canaries.records import count, difference, layout, shared_layout


def test_layout_names_every_part() -> None:
    record = (torch.zeros(1, 8), {"y": 3, "ids": [1, 2, 3]}, np.zeros(2), "text")
    assert {path: str(part) for path, part in layout(record).items()} == {
        "item": "tuple of 4",
        "item[0]": "float32 tensor [1, 8]",
        "item[1]": "dict of [\"'ids'\", \"'y'\"]",
        "item[1]['y']": "int",
        "item[1]['ids']": "list of numbers [3]",
        "item[2]": "float64 array [2]",
        "item[3]": "str",
    }


SAME: list[tuple[Any, Any]] = [
    ((torch.zeros(2), 1), (torch.ones(2), 7)),
    ({"a": 1, "b": "x"}, {"b": "y", "a": 2}),
    ([1, 2], [3, 4]),
    ("short", "a longer text"),
]
DIFFERENT: list[tuple[Any, Any, str]] = [
    ((torch.zeros(2), 1), (torch.zeros(2), 1, 1), "tuple of 3, the data's is tuple of 2"),
    ((torch.zeros(2), 1), [torch.zeros(2), 1], "list of 2, the data's is tuple of 2"),
    (torch.zeros(2), torch.zeros(3), "float32 tensor [3], the data's is float32 tensor [2]"),
    (torch.zeros(2), torch.zeros(2, 1), "float32 tensor [2, 1], the data's"),
    (torch.zeros(2), torch.zeros(2).double(), "float64 tensor [2], the data's is float32"),
    (torch.zeros(2), np.zeros(2, np.float32), "float32 array"),
    ((1, torch.tensor(0)), (1, 0), "item[1] is int, the data's is int64 tensor"),
    ({"a": {"b": 1}}, {"a": {"c": 1}}, "item['a'] is dict"),
    ({"a": ({}, 1)}, {"a": ({}, "x")}, "item['a'][1] is str, the data's is int"),
    ([1, 2], [1, 2, 3], "list of numbers [3]"),
]


@pytest.mark.parametrize(("data", "canary"), SAME)
def test_no_difference(data: Any, canary: Any) -> None:
    assert difference(layout(data), layout(canary)) is None


@pytest.mark.parametrize(("data", "canary", "words"), DIFFERENT)
def test_difference_names_place_and_both(data: Any, canary: Any, words: str) -> None:
    assert words in str(difference(layout(data), layout(canary)))


def test_lengths_in_which_the_data_differ_are_free() -> None:
    utterances = [(torch.zeros(1, 40 + i), [0] * (i % 3), "hello") for i in range(30)]
    shared = shared_layout(utterances)
    assert str(shared["item[0]"]) == "float32 tensor [1, any]"
    assert difference(shared, layout((torch.zeros(1, 7), [1] * 9, "x"))) is None
    assert "[2, 40]" in str(difference(shared, layout((torch.zeros(2, 40), [1], "x"))))


def test_one_length_throughout_is_fixed() -> None:
    assert str(shared_layout([torch.zeros(4)] * 9)["item"]) == "float32 tensor [4]"
    assert str(shared_layout([torch.zeros(4)])["item"]) == "float32 tensor [4]"


def test_looks_reach_the_last_record() -> None:
    ragged = [torch.zeros(4)] * 99 + [torch.zeros(5)]
    assert str(shared_layout(ragged)["item"]) == "float32 tensor [any]"


def test_count_refuses_a_stream_even_if_it_knows_its_length() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

        def __len__(self) -> int:
            return 3

    with pytest.raises(TypeError, match="map-style"):
        count(Stream(), "data")


def test_count_wants_len_and_indices() -> None:
    class NoLength:
        def __getitem__(self, index: int) -> int:
            return index

    assert count([1, 2], "data") == 2
    with pytest.raises(TypeError, match="data of type NoLength without __len__"):
        count(NoLength(), "data")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data of type set, which cannot be indexed"):
        count({1}, "data")  # type: ignore[arg-type]
