"""Nested plain values as JSON, with their tensors beside it: nothing that could run code.

JSON has no tuples, no keys but strings, and neither infinity nor NaN. An object with a single key
that begins with "$" stands for what it has no form for.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dpclip.checkpoints.tensors import check_tensor

_DEEPEST = 64
_MAPPINGS: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}
_MADE: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "$dict": dict,
    "$ordered": OrderedDict,
    "$counter": lambda pairs: Counter(dict(pairs)),
}


def encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Returns what `json.dumps` takes for a nested plain value.

    Args:
        value: None, bool, int, float, str, tensors, and lists, tuples and dicts of those. Floats
            come back with every bit, except for the payload of a NaN.
        path: names the value, in errors and in `tensors`.
        tensors: gets the tensors, by their path.

    Raises:
        TypeError: a value of another type; the message names the path to it.
    """
    return _tree(value, path, tensors, 0)


def _tree(value: Any, path: str, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > _DEEPEST:
        raise TypeError(f"{path[:80]}... is more than {_DEEPEST} deep, or holds itself.")
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):  # also numpy's float64, which is one
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if type(value) in (Tensor, nn.Parameter):
        return _named(value, path, tensors)
    if type(value) in (list, tuple):
        items = [_tree(v, f"{path}[{i}]", tensors, depth + 1) for i, v in enumerate(value)]
        return items if type(value) is list else {"$tuple": items}
    if type(value) in _MAPPINGS:
        return _mapped(value, path, tensors, depth)
    raise TypeError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}. A checkpoint holds None,"
        " bool, int, float, str, tensors, and lists, tuples and dicts of those: convert it (a "
        "numpy number with .item(), an object with its state_dict()), or leave it out."
    )


def _named(value: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Puts a tensor beside the tree, and returns what stands for it."""
    check_tensor(value, path)
    name = path if path not in tensors else f"{path}#{len(tensors)}"
    tensors[name] = value.detach()
    return {"$tensor": name, "device": value.device.type}


def _mapped(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor], depth: int) -> Any:
    """Returns an object where that is enough, else pairs."""
    named = {k: _tree(v, f"{path}[{k!r}]", tensors, depth + 1) for k, v in value.items()}
    if type(value) is dict and all(type(k) is str and not k.startswith("$") for k in value):
        return named
    pairs = [[_tree(k, f"a key of {path}", {}, depth + 1), v] for k, v in named.items()]
    return {_MAPPINGS[type(value)]: pairs}


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns the value that `encode` was given, its tensors on the kind of device they were on.

    Raises:
        ValueError: a form that `encode` does not write.
        KeyError: a tensor that is not there.
    """
    if isinstance(tree, list):
        return [decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = next((key for key in tree if key.startswith("$")), None)
    if kind is None:
        return {key: decode(item, tensors) for key, item in tree.items()}
    if kind == "$tensor":
        return _place(tensors[tree[kind]], tree["device"])
    if kind == "$float":
        return float(tree[kind])
    if kind == "$tuple":
        return tuple(decode(item, tensors) for item in tree[kind])
    if kind in _MADE:
        return _MADE[kind]([(decode(k, tensors), decode(v, tensors)) for k, v in tree[kind]])
    raise ValueError(f"{kind} is no form of a plain value")


def _place(tensor: Tensor, kind: str) -> Tensor:
    """Returns the tensor on a device of this kind, if this machine has one."""
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return tensor.to(here) if here is not None and here.type == kind else tensor
