"""Tensors that are computed from parameters alone: the parameters' aliases, views, functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Gate:
    """Stands before a parameter's alias: only what a watch itself sends back may pass."""

    def __init__(self) -> None:
        self.open = False

    def guard(self, label: str, name: str) -> Callable[[Tensor], None]:
        """Returns a hook that raises RuntimeError for a gradient computed by autograd."""

        def refuse(_grad: Tensor) -> None:
            if not self.open:
                raise RuntimeError(
                    f"{label} uses its parameter {name!r} where torch shows no operation: in a "
                    "custom autograd.Function or TorchScript, by assigning it to a part of another "
                    "tensor, or after its forward. Use torch functions within forward (torch.cat "
                    "or torch.where instead of assignment), register a sampler for the module with "
                    "opacus.grad_sample.register_grad_sampler, or freeze the parameter."
                )

        return refuse


class Origin(NamedTuple):
    """A parameter in one call of its module.

    Attributes:
        name: its name, relative to the module.
        param: the parameter.
        alias: a leaf that shares its memory and version, and stands in for it.
        gate: before the alias.
    """

    name: str
    param: nn.Parameter
    alias: Tensor
    gate: Gate


def origin(label: str, name: str, param: nn.Parameter) -> Origin:
    """Returns a parameter with an alias that autograd may not reach.

    Args:
        label: how messages call the module.
        name: the parameter's name in it.
        param: the parameter.
    """
    gate, alias = Gate(), param.detach().requires_grad_()
    alias.register_hook(gate.guard(label, name))
    return Origin(name, param, alias, gate)


class Like:
    """One tensor that stands for parameters, alike for all samples.

    Attributes:
        tensor: as the module sees it, with a small graph that leads to the aliases.
        source: with the same numbers and as little as possible repeated: a view of an alias, if
            there is one, or one period along an axis that repeats it; else `tensor`.
        view: whether it is a view of an alias.
        origins: the parameters it is computed from; of a view, the one.
    """

    __slots__ = ("__dict__", "origins", "source", "tensor", "view")

    def __init__(
        self, tensor: Tensor, source: Tensor, view: bool, origins: tuple[Origin, ...]
    ) -> None:
        self.tensor, self.source, self.view, self.origins = tensor, source, view, origins

    @property
    def alias(self) -> Tensor:
        """Of the first parameter it is computed from."""
        return self.origins[0].alias

    @cached_property
    def value(self) -> Tensor:
        """The tensor without its graph."""
        return self.tensor.detach()

    @cached_property
    def core(self) -> Tensor:
        """The source with size 1 where it is expanded: what a gradient is summed to."""
        found = self.source
        with torch.enable_grad():
            for axis, (size, stride) in enumerate(zip(found.shape, found.stride(), strict=True)):
                if stride == 0 and size > 1:
                    found = found.narrow(axis, 0, 1)
        return found

    @cached_property
    def bare(self) -> Tensor:
        """The numbers of `tensor` in the shape of the core, without a graph."""
        found = self.value
        for axis, size in enumerate(self.core.shape):
            if size != found.shape[axis]:
                found = found.narrow(axis, 0, size)
        return found
