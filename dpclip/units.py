"""What is captured: the modules that hold parameters, and the inputs of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.aliases import Aliases
from dpclip.layers import Rule, rule_for

WHOLE = (nn.MultiheadAttention,)
"""Modules that read their children's weights without calling them: captured as one."""


@dataclass
class Unit:
    """One module whose parameters are captured together.

    Attributes:
        name: qualified name in the model.
        module: the module.
        params: names of its captured parameters, relative to it.
        rule: what captures it: "dpclip", "opacus" or "operations".
        form: the rule itself, None for a module that is captured at its operations.
        axes: (number, dimensions) of an output -> its batch axis, or None for one that is
            computed once for all samples; filled by calls that left no doubt.
        settled: (output number, shape, B) -> its batch axis, where that is beyond doubt.
        aliases: what stands in for the parameters while the module runs.
    """

    name: str
    module: nn.Module
    params: tuple[str, ...]
    rule: str
    form: Rule | None
    axes: dict[tuple[int, int], int | None] = field(default_factory=dict)
    settled: dict[tuple[int, torch.Size, int], int] = field(default_factory=dict)
    aliases: Aliases = field(init=False)

    def __post_init__(self) -> None:
        self.aliases = Aliases(self.module, self.params)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.name or 'the model itself'} ({type(self.module).__name__})"


def unit_of(name: str, module: nn.Module) -> Unit:
    """Returns the unit of a module that holds trainable parameters."""
    whole = isinstance(module, WHOLE)
    params = tuple(n for n, p in module.named_parameters(recurse=whole) if p.requires_grad)
    found = None if whole else rule_for(module)
    if found is None:
        return Unit(name, module, params, "operations", None)
    return Unit(name, module, params, found[0], found[1])


class Saved:
    """The inputs of one call, detached, with a check that nobody changed them since.

    Attributes:
        leaves: tensors and other values of (args, kwargs), flattened.
        tensors: the tensors among them.
        has_graph: whether one of them came out of something that is differentiated.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._spec: pytree.TreeSpec | None = None
        given: Sequence[Any] = args
        if kwargs or not all(isinstance(arg, Tensor) for arg in args):
            given, self._spec = pytree.tree_flatten((args, kwargs))
        self.leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in given]
        self.tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        self.has_graph = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in given)
        self._versions = [leaf._version for leaf in self.tensors]

    @property
    def spec(self) -> pytree.TreeSpec:
        """How the leaves make up (args, kwargs); formed late, since few modules need it."""
        if self._spec is None:
            self._spec = pytree.tree_flatten((tuple(self.leaves), {}))[1]
        return self._spec

    def expand(self, axis: int, rows: int) -> None:
        """Gives every tensor with an axis of size 1 there a batch axis of `rows`."""
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, Tensor) and leaf.dim() > axis and leaf.shape[axis] == 1:
                self.leaves[i] = widened(leaf, axis, rows)
        self._renew()

    def stack(self, rows: int) -> None:
        """Gives every tensor a new first axis of `rows`."""
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, Tensor):
                self.leaves[i] = leaf.expand(rows, *leaf.shape)
        self._renew()

    def _renew(self) -> None:
        self.tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def check(self, unit: Unit) -> None:
        """Raises RuntimeError if an input was modified in place after the forward."""
        if [leaf._version for leaf in self.tensors] != self._versions:
            raise RuntimeError(
                f"An input of {unit.label} was changed in place between forward and backward, so "
                "its gradient cannot be formed. Use the out-of-place operation there."
            )


def widened(tensor: Tensor, axis: int, rows: int) -> Tensor:
    """Returns a view in which the axis of size 1 has size `rows`."""
    sizes = list(tensor.shape)
    sizes[axis] = rows
    return tensor.expand(sizes)
