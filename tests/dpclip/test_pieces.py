"""Cutting a logical batch into physical ones."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpclip.limits import Limits
from dpclip.pieces import Logical, cut, piece_of

LOGICAL = Logical(3, 0.5, 2)


def test_empty_batch_is_one_padding_row():
    (only,) = cut([], torch.zeros(0, dtype=torch.int64), Limits(4), LOGICAL)
    piece = piece_of(only)
    assert piece.real.tolist() == [False] and piece.first and piece.last and not piece.open


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.none() | st.integers(1, 12))
def test_pieces_hold_every_record_once_and_cut_at_borders(numbers, limit):
    ids = [100 + i for i in range(len(numbers))]
    pieces = [piece_of(draws) for draws in cut(ids, torch.tensor(numbers), Limits(limit), LOGICAL)]
    held = [int(i) for p in pieces for i in p.ids]
    assert sorted(held) == ids
    assert [int(s) for p in pieces for s in p.slots] == sorted(numbers)
    assert [p.first for p in pieces] == [i == 0 for i in range(len(pieces))]
    assert [p.last for p in pieces] == [i == len(pieces) - 1 for i in range(len(pieces))]
    for p, after in zip(pieces, [*pieces[1:], None], strict=True):
        assert limit is None or len(p.ids) <= limit
        assert p.logical == LOGICAL and p.groups == 2 and bool(p.real.all())
        goes_on = after is not None and int(p.slots[-1]) == int(after.slots[0])
        assert p.open == goes_on
        assert not p.open or len(set(p.slots.tolist())) == 1
