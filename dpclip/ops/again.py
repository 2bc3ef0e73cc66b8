"""Group rows of an operation nobody wrote a rule for: run it again for each sample or group.

Exact for whatever it computes, as long as its samples do not mix and it draws nothing at random;
both are checked, since what is recomputed must equal what it returned.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dpclip.groups import Groups, kept_rows, segment_sum
from dpclip.ops.places import Place, samples_first, unfolded
from dpclip.outputs import float_tensors

_WAY_OUT = (
    "Use the parameter in an operation that takes each sample by itself, or register a sampler for "
    "the module with opacus.grad_sample.register_grad_sampler."
)


class Differs(RuntimeError):
    """Raised where what is recomputed is not what was computed."""


class Weight(NamedTuple):
    """A tensor computed from parameters, as one operation gets it.

    Attributes:
        tensor: its numbers, each of those that are repeated once.
        shape: what it is repeated to.
        place: where it is repeated for the samples, if it is.
    """

    tensor: Tensor
    shape: Sequence[int]
    place: Place | None

    def repeated(self, tensor: Tensor, samples: int) -> Tensor:
        """Returns what the operation gets for that many samples."""
        sizes = list(self.shape)
        if self.place is not None:
            sizes[self.place.axis] = samples * self.place.outer * self.place.inner
        periods = [size // has for size, has in zip(sizes, tensor.shape, strict=True)]
        several = [n if has > 1 else 1 for n, has in zip(periods, tensor.shape, strict=True)]
        return (tensor.repeat(several) if max(several, default=1) > 1 else tensor).expand(sizes)


@dataclass(frozen=True)
class Again:
    """One call of an operation and what came back through it.

    Attributes:
        func: the operation.
        leaves: tensors and other values of (args, kwargs), flattened; tensors detached.
        spec: how to unflatten them.
        weights: the leaves that are computed from parameters.
        places: which other leaves hold samples, and where.
        outputs: its floating-point outputs, and where the samples are in each.
        autocast: (device type, dtype, enabled) of the forward.
        label: how messages call it.
    """

    func: Callable[..., Any]
    leaves: Sequence[Any]
    spec: pytree.TreeSpec
    weights: dict[int, Weight]
    places: dict[int, Place]
    outputs: Sequence[tuple[Tensor, Place]]
    autocast: tuple[str, torch.dtype, bool]
    label: str

    def rows(self, gouts: dict[int, Tensor], count: int, groups: Groups) -> list[Tensor]:
        """Returns rows [G, *shape] of each tensor of `weights`.

        Args:
            gouts: number of an output -> gradient of the loss by it.
            count: B.
            groups: the groups of the B samples.

        Raises:
            RuntimeError: it cannot be run on a part of the batch, or then returns something else.
        """
        if count > 1:
            try:
                return self._vectorized(gouts, count, groups)
            except (RuntimeError, ValueError):
                pass  # not every operation can be vectorized
        try:
            return self._looped(gouts, count, groups)
        except Differs:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.label}: {self.name} has no rule, and running it again on a part of the "
                f"batch failed ({error}). {_WAY_OUT}"
            ) from error

    @property
    def name(self) -> str:
        """How messages call the operation."""
        return getattr(self.func, "__name__", str(self.func))

    def _run(self, leaves: Sequence[Any]) -> list[Tensor]:
        args, kwargs = pytree.tree_unflatten(list(leaves), self.spec)
        device, dtype, enabled = self.autocast
        with torch.autocast(device, dtype, enabled):
            return float_tensors(self.func(*args, **kwargs))

    def _vectorized(self, gouts: dict[int, Tensor], count: int, groups: Groups) -> list[Tensor]:
        used = sorted(gouts)

        def one(
            weights: list[Tensor], samples: list[Tensor], grads: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            leaves = list(self.leaves)
            for (i, weight), tensor in zip(self.weights.items(), weights, strict=True):
                leaves[i] = weight.repeated(tensor, 1)
            for (i, place), sample in zip(self.places.items(), samples, strict=True):
                leaves[i] = _with_axis(sample, place)
            found = self._run(leaves)
            outs = [_without_axis(found[i], self.outputs[i][1]) for i in used]
            pairs = zip(outs, grads, strict=True)
            return sum((o * g).sum() for o, g in pairs), outs  # type: ignore[return-value]

        def front(tensors: list[tuple[Tensor, Place]]) -> list[Tensor]:
            return [samples_first(tensor, place, count) for tensor, place in tensors]

        with warnings.catch_warnings():
            # An operation without a batching rule runs once for each sample.
            warnings.filterwarnings("ignore", "There is a performance drop")
            grads, again = torch.func.vmap(
                torch.func.grad(one, has_aux=True), in_dims=(None, 0, 0), randomness="different"
            )(
                [weight.tensor for weight in self.weights.values()],
                front([(self.leaves[i], place) for i, place in self.places.items()]),
                front([(gouts[i], self.outputs[i][1]) for i in used]),
            )
        self._must_equal(front([self.outputs[i] for i in used]), again)
        return [segment_sum(kept_rows(grad, groups), groups) for grad in grads]

    def _looped(self, gouts: dict[int, Tensor], count: int, groups: Groups) -> list[Tensor]:
        used = sorted(gouts)
        weights = [w.tensor.detach().requires_grad_() for w in self.weights.values()]
        rows = [w.new_zeros(groups.count, *w.shape) for w in weights]
        kept = torch.arange(count) if groups.keep is None else groups.keep
        for group in range(groups.count):
            chosen = kept[(groups.index == group).to(kept.device)]
            leaves = list(self.leaves)
            for i, place in self.places.items():
                leaves[i] = _taken(leaves[i], place, count, chosen)
            with torch.enable_grad():
                for (i, weight), tensor in zip(self.weights.items(), weights, strict=True):
                    leaves[i] = weight.repeated(tensor, len(chosen))
                found = self._run(leaves)
            again = [found[i] for i in used]
            self._must_equal([_taken(*self.outputs[i], count, chosen) for i in used], again)
            grads = torch.autograd.grad(
                again,
                weights,
                [_taken(gouts[i], self.outputs[i][1], count, chosen) for i in used],
                allow_unused=True,
            )
            for row, grad in zip(rows, grads, strict=True):
                if grad is not None:
                    row[group] = grad
        return rows

    def _must_equal(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        for want, got in zip(expected, found, strict=True):
            scale = want.abs().amax().clamp(min=1.0) if want.numel() else want.new_ones(())
            tolerance = 1e3 * torch.finfo(want.dtype).eps
            if want.shape != got.shape or not bool(
                ((want - got).abs() <= tolerance * scale).logical_or(~want.isfinite()).all()
            ):
                raise Differs(
                    f"{self.label}: {self.name} has no rule, and running it again on a part of the "
                    "batch gave other values than the whole batch did. It may draw random numbers, "
                    f"mix samples, or have its batch axis elsewhere. {_WAY_OUT}"
                )


def _with_axis(sample: Tensor, place: Place) -> Tensor:
    """Returns one sample as a batch of one."""
    if place.exact:
        return sample.unsqueeze(place.axis)
    return sample.flatten(place.axis, place.axis + 1)


def _without_axis(batch: Tensor, place: Place) -> Tensor:
    """Returns the sample of a batch of one."""
    if place.exact:
        return batch.squeeze(place.axis)
    return unfolded(batch, place, 1).squeeze(place.axis + 1)


def _taken(tensor: Tensor, place: Place, count: int, chosen: Tensor) -> Tensor:
    """Returns a batch of the chosen samples."""
    chosen = chosen.to(tensor.device)
    if place.axis < 0:
        return tensor
    if place.exact:
        return tensor.index_select(place.axis, chosen)
    parts = unfolded(tensor, place, count)
    return parts.index_select(place.axis + 1, chosen).flatten(place.axis, place.axis + 2)
