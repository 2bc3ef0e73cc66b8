from typing import Any

import numpy as np
import pytest
import torch

from canaries import digest

DIFFERENT: list[Any] = [
    torch.zeros(2, 3),
    torch.zeros(3, 2),
    torch.zeros(6),
    torch.zeros(2, 3, dtype=torch.int32),
    torch.zeros(2, 3, dtype=torch.bfloat16),
    torch.tensor([0.0, 1.0]),
    torch.tensor([1.0, 0.0]),
    np.zeros((2, 3)),
    np.float64(0),
    0,
    0.0,
    False,
    None,
    "0",
    b"0",
    "",
    (),
    [],
    {},
    ("ab", "c"),
    ("a", "bc"),
    ("xstr", "y"),
    ("x", "stry"),
    (("a",), "b"),
    (("a", "b"),),
    ("a", ("b",)),
    ["a", "b"],
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
]


def test_different_contents_have_different_digests() -> None:
    digests = [digest(content) for content in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    assert {len(value) for value in digests} == {64}


def test_digest_is_about_content_and_not_about_storage() -> None:
    grid = torch.arange(6.0).reshape(2, 3)
    assert digest(grid) == digest(grid.t().contiguous().t())
    assert digest(grid.clone().requires_grad_()) == digest(grid)
    assert digest(torch.arange(6)[::2]) == digest(torch.tensor([0, 2, 4]))
    assert digest(np.arange(6)[::2]) == digest(np.array([0, 2, 4]))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize("content", [object(), (1, object()), np.array([object()])])
def test_refuses_what_it_cannot_read(content: object) -> None:
    with pytest.raises(TypeError, match="convert it before sealing"):
        digest(content)
