"""What a module returns, whatever it is wrapped in."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def float_tensors(value: Any) -> list[Tensor]:
    """Returns the floating-point tensors of a nested value, in order."""
    leaves = pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
