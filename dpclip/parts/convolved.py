"""Group gradients of convolution kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from dpclip.groups import Groups, sections, segment_sum
from dpclip.parts.part import Part, row_squares, silenced, weighted, written

_WORTH_A_CALL = 3e6
"""Multiplications in one group above which a kernel call of its own is faster than unfolding all
samples at once (measured on one CPU core; both give the same rows)."""


@dataclass(frozen=True, eq=False)
class Convolved:
    """Rows of the kernel [o, i / groups, *k] of a convolution.

    Attributes:
        layer: the convolution, with any stride, padding, dilation and groups.
        a: [R, i, *space] what came in.
        g: [R, o, *space'] what came back.
        groups: the groups of the R samples.
    """

    layer: nn.Conv2d
    a: Tensor
    g: Tensor
    groups: Groups

    def rows(self, out: Tensor | None) -> Tensor:
        """See `Part`."""
        if self._unfolding_pays():
            # The unfolding reads strides as if tensors were contiguous (channels_last is not).
            samples = GradSampleHooks.GRAD_SAMPLERS[type(self.layer)](
                self.layer, [self.a.contiguous()], self.g.contiguous()
            )[cast(nn.Parameter, self.layer.weight)]
            found = segment_sum(samples, self.groups)
            return written(found, out)
        if out is None:
            out = self.g.new_empty(self.groups.count, *self.layer.weight.shape)
        for row, (a, g) in zip(out, self._sections(), strict=True):
            row.copy_(self._native(a, g))
        return out

    def add_to(self, rows: Tensor) -> None:
        """See `Part`."""
        rows += self.rows(None)

    def squares(self) -> Tensor:
        """See `Part`. One group's kernel is held at a time."""
        found = [row_squares(self._native(a, g)[None]) for a, g in self._sections()]
        return torch.cat(found)

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        g = weighted(self.g, self.groups, factors, valid)
        a, padding = self._padded(silenced(self.a, self.groups, valid).to(g.dtype))
        return self._call(a, g, padding)

    def joined(self, other: Part) -> Part | None:
        """See `Part`. Maps of two uses may differ in size; their rows add up."""
        return None

    def _unfolding_pays(self) -> bool:
        layer = self.layer
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
        pixels = self.g[:1, :1].numel() * len(self.g) / self.groups.count
        return self.g.device.type != "cpu" or pixels * layer.weight.numel() < _WORTH_A_CALL

    def _sections(self) -> Sequence[tuple[Tensor, Tensor]]:
        a, g = sections(self.a, self.groups), sections(self.g, self.groups)
        return list(zip(a, g, strict=True))

    def _native(self, a: Tensor, g: Tensor) -> Tensor:
        padded, padding = self._padded(a)
        return self._call(padded, g, padding)

    def _padded(self, a: Tensor) -> tuple[Tensor, Sequence[int]]:
        """Returns the input padded as the kernel cannot, and what is left for it to pad."""
        layer = self.layer
        if layer.padding_mode != "zeros":
            both = layer._reversed_padding_repeated_twice
            return F.pad(a, both, mode=layer.padding_mode), [0] * len(layer.stride)
        if isinstance(layer.padding, str):  # "same" may pad one side more than the other
            return F.pad(a, layer._reversed_padding_repeated_twice), [0] * len(layer.stride)
        return a, layer.padding

    def _call(self, a: Tensor, g: Tensor, padding: Sequence[int]) -> Tensor:
        """Returns the kernel's gradient by the function that plain training uses."""
        layer = self.layer
        weight = layer.weight.detach().to(g.dtype)
        found: Tensor = torch.ops.aten.convolution_backward(
            g, a, weight, None, layer.stride, padding, layer.dilation, False,
            [0] * len(padding), layer.groups, [False, True, False],
        )[1]  # fmt: skip
        return found
