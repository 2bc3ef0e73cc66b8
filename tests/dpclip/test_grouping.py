"""Slot numbers and public constants of every grouping."""

from __future__ import annotations

import pytest
import torch

from dpclip import by_key, micro_batches, per_core, per_sample
from dpclip.groups import groups_of, kept_rows, segment_sum
from dpclip.streams import seeded
from dpclip.types import Members

CPU = torch.device("cpu")


def slots(grouping, rows, ids=None, count=0, seed=0):
    return grouping.assign(Members(rows, ids, count, seeded(seed, CPU).draws)).tolist()


def test_by_position():
    assert slots(per_sample(), 3) == [0, 1, 2]
    assert slots(micro_batches(3), 7) == [0, 0, 0, 1, 1, 1, 2]
    assert slots(per_core(3), 7) == [0, 0, 0, 1, 1, 2, 2]
    assert slots(per_core(4), 2) == [0, 1]
    assert slots(micro_batches(3), 0) == slots(per_core(2), 0) == []


def test_fixed_slots_stay_with_the_record():
    ids = torch.arange(3000)
    all_ = torch.tensor(slots(per_core(3, slots="fixed"), 3000, ids))
    some = torch.randperm(3000)[:100]
    assert slots(per_core(3, slots="fixed"), 100, some) == all_[some].tolist()
    assert all(900 < int((all_ == s).sum()) < 1100 for s in range(3))
    assert not torch.equal(all_[:-1], all_[1:])


def test_keys():
    ids = torch.tensor([5, 2, 8, 4])
    assert slots(by_key(lambda i: i % 3), 4, ids) == [0, 0, 0, 1]
    assert slots(by_key(lambda i: "ab"[i % 2]), 4, ids) == [0, 1, 1, 1]


def test_public_constants():
    assert per_sample().divisor(0.1, 50) == (5.0, 1.0)
    assert micro_batches(4).divisor(0.1, 50) is None and per_core(4).divisor(0.1, 50) is None
    assert micro_batches(4, slots="random").divisor(0.5, 50) == (6.0, 25 / 6)
    assert micro_batches(9, slots="random").divisor(0.1, 50) == (1.0, 5.0)
    assert per_core(4, slots="fixed").divisor(0.5, 50) == (4.0, 6.25)
    uneven = {0: "a", 1: "a", 2: "a", 3: "b"}.__getitem__
    groups, size = by_key(uneven).divisor(0.5, 4)
    assert groups == pytest.approx(1 - 0.5**3 + 0.5) and groups * size == pytest.approx(2.0)
    assert by_key(uneven, unit="user").divisor(0.5, 4) == (1.0, None)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: micro_batches(0),
        lambda: micro_batches(2.5),
        lambda: micro_batches(2, slots="fixed"),
        lambda: per_core(0),
        lambda: per_core(2.0),
        lambda: per_core(2, slots="random"),
        lambda: by_key(str, unit="speaker"),
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="expected"):
        wrong()


@pytest.mark.parametrize("slots", ["position", "fixed"])
def test_ranks_need_torch_distributed(kit, slots):
    with pytest.raises(RuntimeError, match=r"torchrun.*per_core\(n\)"):
        kit.private(kit.Mlp(), kit.vectors(), grouping=per_core(slots=slots), max_grad_norm=1.0)


@pytest.mark.parametrize(
    ("numbers", "real", "equal"),
    [
        ([0, 1, 2], None, 1),
        ([4, 4, 7, 7], None, 2),
        ([0, 0, 1], None, None),
        ([1, 0, 1, 0], None, None),
        ([0, 5, 5, 0], [True, False, True, True], None),
        ([3, 3], [False, False], None),
        ([0, 1], [True, True], 1),
        ([1, 0], None, None),
        ([2, 2, 2], None, 3),
    ],
)
def test_sums_by_group(numbers, real, equal):
    numbers = torch.tensor(numbers)
    mask = None if real is None else torch.tensor(real)
    groups = groups_of(numbers, mask)
    rows = torch.randn(len(numbers), 2, 3)
    used = torch.ones(len(numbers), dtype=torch.bool) if mask is None else mask
    wanted = [rows[(numbers == s) & used].sum(0) for s in numbers[used].unique()]
    found = segment_sum(kept_rows(rows, groups), groups)
    assert groups.equal == equal and len(found) == groups.count == len(wanted)
    assert groups.sizes.tolist() == [
        int(((numbers == s) & used).sum()) for s in numbers[used].unique()
    ]
    for f, w in zip(found, wanted, strict=True):
        assert torch.allclose(f, w)
