"""What is captured: the modules that hold parameters, and the inputs of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.aliases import Aliases
from dpclip.layers import LOOKS, Rule, rule_for

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
        axes: (call in a forward, number, dimensions) of an output -> its batch axis, or None for
            one that is computed once for all samples; filled by calls that left no doubt.
        settled: (call, output number, shape, B) -> its batch axis, where that is beyond doubt.
        aliases: what stands in for the parameters while the module runs.
    """

    name: str
    module: nn.Module
    params: tuple[str, ...]
    rule: str
    form: Rule | None
    axes: dict[tuple[int, int, int], int | None] = field(default_factory=dict)
    settled: dict[tuple[int, int, torch.Size, int], int] = field(default_factory=dict)
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
    """The tensors that one call got, detached, with a check that nobody changed them since.

    Attributes:
        tensors: the tensors among (args, kwargs).
        known: what the rule gets after them; none for inputs that were given another axis.
        has_graph: whether one of them came out of something that is differentiated.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given: Sequence[Any] = args
        if kwargs or not all(isinstance(arg, Tensor) for arg in args):
            given = [
                leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
            ]
        self.tensors: list[Tensor] = [tensor.detach() for tensor in given]
        self.known: tuple[Tensor, ...] = ()
        self.has_graph = any(tensor.requires_grad for tensor in given)
        self._versions = [tensor._version for tensor in self.tensors]

    def look(self, unit: Unit, output: Tensor) -> None:
        """Keeps what the unit's rule can use of what the forward has computed."""
        find = LOOKS.get(type(unit.module))
        self.known = () if find is None else find(output)

    def expand(self, axis: int, rows: int) -> None:
        """Gives every tensor with an axis of size 1 there a batch axis of `rows`."""
        self.known = ()
        for i, tensor in enumerate(self.tensors):
            if tensor.dim() > axis and tensor.shape[axis] == 1:
                self.tensors[i] = widened(tensor, axis, rows)

    def stack(self, rows: int) -> None:
        """Gives every tensor a new first axis of `rows`."""
        self.known = ()
        self.tensors = [tensor.expand(rows, *tensor.shape) for tensor in self.tensors]

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
