"""Nested plain values come back as they were, and nothing else is written."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpclip.checkpoints.plain import decode, encode
from dpclip.checkpoints.tensors import read_tensors, write_tensors

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
LEAVES = KEYS | st.floats() | st.just("$tuple")
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$dict", "$tensor", "a", ""]), inner)
        | st.dictionaries(KEYS, inner, max_size=2).map(OrderedDict)
        | st.dictionaries(KEYS, st.integers(), max_size=2).map(Counter)
        | st.dictionaries(st.tuples(KEYS, KEYS), inner, max_size=2)
    ),
    max_leaves=12,
)


def through(value):
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(value, "value", tensors), allow_nan=False)
    return decode(json.loads(text), tensors)


def same(a, b) -> bool:
    """Equal in value, type, sign of zero and order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a * b) == 1)
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(VALUES)
def test_values_come_back(value):
    assert same(through(value), value)


def test_zeros_keep_their_sign_and_floats_their_bits():
    for value in (0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf):
        assert through(value).hex() == value.hex()
    assert math.isnan(through(math.nan))
    found = through(np.float64(0.1))
    assert type(found) is float and found == 0.1


DTYPES = [torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_come_back(tmp_path, dtype):
    whole = torch.randn(4, 6).to(dtype)
    value = {
        "a": [whole, whole],
        "b": (whole.T, whole[1:, ::2], whole.view(2, 12)),
        ("c", 0): torch.nn.Parameter(whole, requires_grad=False),
        "d": {1: torch.zeros(0, 3), "1": torch.tensor(2.0), "x.y": whole[0]},
    }
    tensors: dict[str, torch.Tensor] = {}
    tree = json.loads(json.dumps(encode(value, "value", tensors)))
    write_tensors(tmp_path / "tensors", tensors)
    found = decode(tree, read_tensors(tmp_path / "tensors"))
    assert torch.equal(found["a"][0], whole) and torch.equal(found["a"][1], whole)
    assert found["a"][0].dtype == dtype
    assert torch.equal(found["b"][0], whole.T) and torch.equal(found["b"][1], whole[1:, ::2])
    assert torch.equal(found["b"][2], whole.view(2, 12))
    assert torch.equal(found["c", 0], whole) and torch.equal(found["d"]["x.y"], whole[0])
    assert found["d"][1].shape == (0, 3) and float(found["d"]["1"]) == 2.0


def holds_itself():
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {"b": Fraction(1, 2)}]}, r"extra\['a'\]\[1\]\['b'\] is a fractions.Fraction"),
        ({"a": np.int64(3)}, r"extra\['a'\] is a numpy.int64.*\.item\(\)"),
        ({"a": np.zeros(3)}, "numpy.ndarray"),
        ({frozenset(): 1}, "a key of extra is a builtins.frozenset"),
        (defaultdict(int), "defaultdict"),
        ([print], "builtins.builtin_function_or_method"),
        ([torch.nn.Linear(2, 2)], "Linear"),
        ({1}, "builtins.set"),
        (b"x", "builtins.bytes"),
        (1j, "builtins.complex"),
        (torch.Size([1]), "torch.Size"),
        ([torch.eye(2).to_sparse()], r"extra\[0\] is torch.sparse_coo"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (torch.zeros(2, device="meta"), "a tensor without values"),
        (holds_itself(), "holds itself"),
    ],
)
def test_other_types_are_refused_with_their_path(value, words):
    with pytest.raises(TypeError, match=words):
        encode(value, "extra", {})


@pytest.mark.parametrize("tree", [{"$object": "os.system"}, {"a": {"$reduce": ["x"]}}])
def test_unknown_forms_are_refused(tree):
    with pytest.raises(ValueError, match="is no form of a plain value"):
        decode(tree, {})


def test_tied_tensors_are_written_once(tmp_path):
    one, two = torch.randn(50, 50), torch.randn(50, 50)
    write_tensors(tmp_path / "tied", {"a": one, "b": two, "c": one})
    assert (tmp_path / "tied").stat().st_size < 2.5 * one.nbytes
    found = read_tensors(tmp_path / "tied")
    assert torch.equal(found["a"], one) and torch.equal(found["b"], two)
    assert found["c"] is found["a"]


def test_no_tensors(tmp_path):
    write_tensors(tmp_path / "none", {})
    assert read_tensors(tmp_path / "none") == {}


def test_what_is_read_does_not_follow_the_file(tmp_path):
    """A tensor that is a view of the mapped file would."""
    write_tensors(tmp_path / "tensors", {"a": torch.ones(10_000)})
    found = read_tensors(tmp_path / "tensors")["a"]
    with (tmp_path / "tensors").open("r+b") as file:
        file.write(bytes((tmp_path / "tensors").stat().st_size))
    assert float(found.sum()) == 10_000
