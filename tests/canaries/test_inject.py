import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from canaries import SecretFormat, budget, inject, panel, stream, text_records

DATA = TensorDataset(torch.arange(20.0).reshape(20, 1), torch.arange(20))
ITEMS = TensorDataset(-1 - torch.arange(4.0).reshape(4, 1), -1 - torch.arange(4))


@given(
    st.integers(1, 12),
    st.lists(st.integers(0, 3), max_size=8),
    st.integers(0, 2**32),
)
def test_records_are_the_data_in_order_and_every_copy(
    n_data: int, copies: list[int], seed: int
) -> None:
    data, items = [f"d{i}" for i in range(n_data)], [f"c{i}" for i in range(4)]
    injected = inject(data, items, copies, seed)
    records = [injected[i] for i in range(len(injected))]
    assert len(injected) == len(records) == n_data + len(copies)
    assert [record for record in records if record.startswith("d")] == data
    assert sorted(record for record in records if record.startswith("c")) == sorted(
        f"c{number}" for number in copies
    )
    # The books agree with the records.
    for index, record in enumerate(records):
        origin = int(injected.origin[index])
        assert record == (f"c{origin}" if origin >= 0 else data[injected.rows[index]])
    for number in range(4):
        where = injected.positions[number].tolist()
        assert where == [i for i, record in enumerate(records) if record == f"c{number}"]
    assert budget(injected) == pytest.approx(len(copies) / len(records))


def test_positions_cover_the_dataset_uniformly() -> None:
    # Each copy of its own, not only their union: the first must not always come first.
    data, items = [0] * 8, [1, 2, 3]
    runs = [inject(data, items, [0, 1, 2], seed).positions for seed in range(1320)]
    for number in range(3):
        places = np.concatenate([positions[number] for positions in runs])
        assert chisquare(np.bincount(places, minlength=11)).pvalue > 1e-3


def test_positions_depend_on_the_seed_alone() -> None:
    first, again, other = (inject(DATA, ITEMS, [0, 1, 1], seed) for seed in (0, 0, 1))
    assert first.origin.tolist() == again.origin.tolist()
    assert first.origin.tolist() != other.origin.tolist()


def test_the_dataset_underneath_stays_as_it_was() -> None:
    before = [tensor.clone() for tensor in DATA.tensors]
    validation = DATA
    injected = inject(DATA, ITEMS, [0, 3, 3], seed=0)
    records = [injected[i] for i in range(len(injected))]
    assert len(validation) == 20
    assert all(torch.equal(a, b) for a, b in zip(before, DATA.tensors, strict=True))
    assert not any(validation[i][1] < 0 for i in range(20))
    assert sum(bool(y < 0) for _, y in records) == 3


def test_the_books_cannot_be_changed() -> None:
    injected = inject(DATA, ITEMS, [0], seed=0)
    with pytest.raises(ValueError, match="read-only"):
        injected.origin[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        injected.rows[0] = 3


def test_indices_behave_like_those_of_a_list() -> None:
    injected = inject(list("abc"), ["x"], [0], seed=0)
    assert injected[-1] == injected[3]
    with pytest.raises(IndexError):
        injected[4]


def test_loads_in_batches_and_travels_to_workers() -> None:
    injected = pickle.loads(pickle.dumps(inject(DATA, ITEMS, [0, 1, 1], seed=0)))
    labels = torch.cat([y for _, y in DataLoader(injected, batch_size=4, shuffle=True)])
    assert sorted(labels.tolist()) == [-2, -2, -1, *range(20)]


def test_nothing_to_insert_is_fine() -> None:
    injected = inject(DATA, ITEMS, [], seed=0)
    assert (len(injected), budget(injected)) == (20, 0.0)
    assert [len(where) for where in injected.positions.values()] == [0, 0, 0, 0]


def test_a_panel_of_secrets_from_end_to_end() -> None:
    plan, pins = panel(4, seed=2), SecretFormat("my pin is {}{}{}{}{}{}")
    tokens, _ = text_records(pins, pins.draw(len(plan), stream(2, "secrets")), length=32)
    prose = torch.randint(1, 128, (500, 32), generator=torch.Generator().manual_seed(0))
    injected = inject(prose, tokens, plan.copies(), seed=2)
    counts = [len(injected.positions[number]) for number in range(len(plan))]
    expected = [times * coin for times, coin in zip(plan.repetitions, plan.coins, strict=True)]
    assert counts == expected
    for number, where in injected.positions.items():
        assert all(torch.equal(injected[int(i)], tokens[number]) for i in where)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(())


def test_refuses_streams_and_the_empty() -> None:
    with pytest.raises(TypeError, match=r"dataset of type Endless.*pass a map-style dataset"):
        inject(Endless(), [1], [0], seed=0)
    with pytest.raises(TypeError, match="items of type Endless"):
        inject([1], Endless(), [0], seed=0)
    with pytest.raises(ValueError, match="empty dataset"):
        inject([], [1], [0], seed=0)


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        ([4], "found a copy of canary 4; expected 0 to 3"),
        ([-1], "found a copy of canary -1"),
        ([0.5], "dtype float64"),
        ([True, False], "dtype bool"),
        ([[0, 1]], r"shape \(1, 2\)"),
    ],
)
def test_refuses_copies_that_name_no_canary(copies: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        inject(DATA, ITEMS, copies, seed=0)


def test_refuses_canaries_that_are_laid_out_otherwise() -> None:
    wrong = [(torch.zeros(1), torch.tensor(0)), (torch.zeros(2), torch.tensor(0))]
    with pytest.raises(
        ValueError,
        match=r"canary 1 .*item\[0\] is float32 tensor \[2\], the data's is float32 tensor \[1\]",
    ):
        inject(DATA, wrong, [0], seed=0)


def test_lengths_are_free_where_batches_are_padded() -> None:
    data = [(torch.zeros(7, 4), torch.zeros(3)) for _ in range(5)]
    longer = [(torch.zeros(9, 4), torch.zeros(2))]
    with pytest.raises(ValueError, match=r"\[9, 4\], the data's is float32 tensor \[7, 4\]"):
        inject(data, longer, [0], 0)
    assert len(inject(data, longer, [0], 0, ragged=True)) == 6
    with pytest.raises(ValueError, match=r"\[9, 5\], the data's is float32 tensor \[any, 4\]"):
        inject(data, [(torch.zeros(9, 5), torch.zeros(2))], [0], 0, ragged=True)
