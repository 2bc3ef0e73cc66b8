"""Group rows of a module nobody wrote a rule for: run it again for each sample or group.

Exact for whatever the module computes, as long as its samples do not mix and it draws nothing at
random; both are checked, since what is recomputed must equal what the module returned.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.groups import Groups, kept_rows, segment_sum


@contextmanager
def swapped(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Lets the module compute with other tensors in place of its parameters.

    Args:
        module: whose parameters are replaced.
        values: qualified parameter name -> tensor.
    """
    undo = [swap(module, name, value) for name, value in values.items()]
    try:
        yield
    finally:
        for holder, leaf, original in reversed(undo):
            put(holder, leaf, original)


def swap(module: nn.Module, name: str, value: Tensor) -> tuple[nn.Module, str, Tensor]:
    """Replaces one parameter and returns (holder, name, original) for `put`."""
    path, _, leaf = name.rpartition(".")
    holder = module.get_submodule(path)
    original = holder._parameters[leaf]
    assert original is not None
    put(holder, leaf, value)
    return holder, leaf, original


def put(holder: nn.Module, leaf: str, value: Tensor) -> None:
    """Sets a parameter slot without nn.Module's check that it is an nn.Parameter."""
    holder._parameters[leaf] = value  # type: ignore[assignment]
    if isinstance(holder, nn.RNNBase):
        # Recurrent layers read their weights from a list of their own.
        names = holder._flat_weights_names
        holder._flat_weights = [holder._parameters.get(n) for n in names]


@dataclass(frozen=True)
class Call:
    """One forward of a module and what came back through it.

    Attributes:
        module: the module, whose hooks must be off while it is run again.
        names: parameters to differentiate by.
        leaves: tensors and other values of (args, kwargs), flattened; tensors detached.
        spec: how to unflatten them.
        used: which of its floating-point outputs have a gradient.
        outputs: those tensors.
        gouts: gradient of the loss by each output.
        in_axes: batch axis of each leaf, None for one without.
        out_axes: batch axis of each output.
        autocast: (device type, dtype, enabled) of the forward.
    """

    module: nn.Module
    names: Sequence[str]
    leaves: Sequence[Any]
    spec: pytree.TreeSpec
    used: Sequence[int]
    outputs: Sequence[Tensor]
    gouts: Sequence[Tensor]
    in_axes: Sequence[int | None]
    out_axes: Sequence[int]
    autocast: tuple[str, torch.dtype, bool]

    def run(self, leaves: Sequence[Any], weights: dict[str, Tensor]) -> list[Tensor]:
        """Returns the used outputs for other inputs and weights."""
        args, kwargs = pytree.tree_unflatten(list(leaves), self.spec)
        device, dtype, enabled = self.autocast
        with torch.autocast(device, dtype, enabled), swapped(self.module, weights):
            outputs = float_tensors(self.module(*args, **kwargs))
        return [outputs[i] for i in self.used]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters by name, without their graph."""
        return {name: self.module.get_parameter(name).detach() for name in self.names}


def float_tensors(value: Any) -> list[Tensor]:
    """Returns the floating-point tensors of a nested value, in order."""
    leaves = pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def vmapped_rows(call: Call, groups: Groups) -> dict[nn.Parameter, Tensor]:
    """Returns rows [G, *shape] from per-sample gradients by torch.vmap.

    Raises:
        RuntimeError: the module cannot be vectorized, or what is recomputed differs.
    """
    mapped = {i: axis for i, axis in enumerate(call.in_axes) if axis is not None}

    def one(
        weights: dict[str, Tensor], inputs: list[Tensor], gouts: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        leaves = list(call.leaves)
        for (i, axis), sample in zip(mapped.items(), inputs, strict=True):
            leaves[i] = sample.unsqueeze(axis)
        outs = [
            out.squeeze(axis)
            for out, axis in zip(call.run(leaves, weights), call.out_axes, strict=True)
        ]
        return sum((o * g).sum() for o, g in zip(outs, gouts, strict=True)), outs  # type: ignore[return-value]

    with warnings.catch_warnings():
        # An operation without a batching rule runs once for each sample, which plan() implies.
        warnings.filterwarnings("ignore", "There is a performance drop")
        samples, again = torch.func.vmap(
            torch.func.grad(one, has_aux=True),
            in_dims=(None, list(mapped.values()), list(call.out_axes)),
            out_dims=(0, list(call.out_axes)),  # type: ignore[arg-type]
        )(call.weights, [call.leaves[i] for i in mapped], list(call.gouts))
    _must_equal(call, call.outputs, again)
    return {
        call.module.get_parameter(name): segment_sum(kept_rows(sample, groups), groups)
        for name, sample in samples.items()
    }


def looped_rows(call: Call, groups: Groups) -> dict[nn.Parameter, Tensor]:
    """Returns rows [G, *shape] from one forward and backward for each group.

    Raises:
        RuntimeError: what is recomputed differs from what the module returned.
    """
    rows = {
        call.module.get_parameter(name): value.new_zeros(groups.count, *value.shape)
        for name, value in call.weights.items()
    }
    kept = torch.arange(len(groups.index)) if groups.keep is None else groups.keep
    for group in range(groups.count):
        chosen = kept[(groups.index == group).to(kept.device)]
        leaves = [_take(x, axis, chosen) for x, axis in zip(call.leaves, call.in_axes, strict=True)]
        weights = {name: value.requires_grad_() for name, value in call.weights.items()}
        with torch.enable_grad():
            again = call.run(leaves, weights)
        pairs = list(zip(call.outputs, call.gouts, call.out_axes, strict=True))
        _must_equal(call, [_take(out, axis, chosen) for out, _, axis in pairs], again)
        grads = torch.autograd.grad(
            again,
            list(weights.values()),
            [_take(gout, axis, chosen) for _, gout, axis in pairs],
            allow_unused=True,
        )
        for row, grad in zip(rows.values(), grads, strict=True):
            if grad is not None:
                row[group] = grad
    return rows


def _take(value: Any, axis: int | None, chosen: Tensor) -> Any:
    return value if axis is None else value.index_select(axis, chosen.to(value.device))


def _must_equal(call: Call, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    for want, got in zip(expected, found, strict=True):
        scale = want.abs().amax().clamp(min=1.0) if want.numel() else want.new_ones(())
        tolerance = 1e3 * torch.finfo(want.dtype).eps
        if want.shape != got.shape or not bool(
            ((want - got).abs() <= tolerance * scale).logical_or(~want.isfinite()).all()
        ):
            raise RuntimeError(
                f"{type(call.module).__name__} has no grad sampler, and running it again on a part "
                "of the batch gave other values than the whole batch did. It may draw random "
                "numbers (dropout), mix samples, or have its batch axis elsewhere. Register a "
                "sampler with opacus.grad_sample.register_grad_sampler, or move the parameters "
                f"{', '.join(call.names)} into a module of their own."
            )
