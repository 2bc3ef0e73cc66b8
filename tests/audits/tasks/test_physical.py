import numpy as np
import pytest

from audits.tasks.physical import in_order, parts_of


def test_parts_in_order() -> None:
    assert in_order(5, 2) == [[0, 1], [2, 3], [4]]
    assert in_order(0) == []


@pytest.mark.parametrize("size", [None, 1, 60, 400])
@pytest.mark.parametrize("rows", [1, 7, 512])
def test_parts_hold_every_record_once_and_keep_to_the_limits(size: int | None, rows: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 80, 200).tolist()
    parts = parts_of(lengths, size, rows)
    assert sorted(place for part in parts for place in part) == list(range(200))
    order = [lengths[place] for part in parts for place in part]
    assert order == sorted(order)
    for part in parts:
        assert len(part) <= rows
        longest = max(lengths[place] for place in part)
        assert size is None or len(part) == 1 or len(part) * longest <= size


def test_parts_are_no_smaller_than_they_must_be() -> None:
    assert parts_of([3, 9, 3, 3], 9, 512) == [[0, 2, 3], [1]]
    assert parts_of([3, 9, 3, 3], 8, 512) == [[0, 2], [3], [1]]
    assert parts_of([5, 4, 3], None, 2) == [[2, 1], [0]]
    assert parts_of([], 10) == []
