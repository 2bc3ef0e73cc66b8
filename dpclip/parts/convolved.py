"""Group gradients of convolution kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpclip.groups import Groups, sections, segment_sum
from dpclip.parts.formed import Formed
from dpclip.parts.part import Part, row_squares, silenced, weighted, with_rounding

_TOGETHER = 2**18
"""Kernel elements that one call may form: small kernels share a call, whose start costs as much as
they do; large ones are quicker alone (measured on one CPU core)."""

_WORTH_COPYING = 2**16
"""Elements in and out of a group of several samples, up to which they are copied for that."""


@dataclass(frozen=True, eq=False)
class Convolved:
    """Rows of the kernel of a convolution, [o, i / groups, *k] or transposed [i, o / groups, *k].

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
        return self.formed(out).formed

    def formed(self, out: Tensor | None) -> Formed:
        """Returns the rows with their norms, taken while they are still in the cache."""
        if out is None:
            out = self.g.new_empty(self.groups.count, *self.layer.weight.shape)
        squares, start = [], 0
        for rows in self._chunks():
            squares.append(row_squares(rows))
            out[start : start + len(rows)].copy_(rows)
            start += len(rows)
        return Formed(out, torch.cat(squares))

    def add_to(self, rows: Tensor) -> None:
        """See `Part`."""
        start = 0
        for chunk in self._chunks():
            rows[start : start + len(chunk)] += chunk
            start += len(chunk)

    def squares(self) -> Tensor:
        """See `Part`. A few kernels are held at a time."""
        found = torch.cat([row_squares(rows) for rows in self._chunks()])
        both = [segment_sum(row_squares(samples), self.groups) for samples in (self.a, self.g)]
        places = math.prod(self.layer.kernel_size)  # each of which may meet all of both
        return with_rounding(found, both[0].mul_(both[1]).mul_(places).sqrt_())

    def summed(self, factors: Tensor, valid: Tensor | None) -> Tensor:
        """See `Part`."""
        g = weighted(self.g, self.groups, factors, valid)
        return self._kernels(silenced(self.a, self.groups, valid).to(g.dtype), g, 1)[0]

    def joined(self, other: Part) -> Part | None:
        """See `Part`. Maps of two uses may differ in size; their rows add up."""
        return None

    def _chunks(self) -> Iterator[Tensor]:
        """Yields the rows [c, *shape] of a few groups after the other."""
        if self.groups.equal is None:
            parts = zip(sections(self.a, self.groups), sections(self.g, self.groups), strict=True)
            for a, g in parts:
                yield self._kernels(a, g, 1)
            return
        size = self.groups.equal
        step = size * self._together(size)
        for a, g in zip(self.a.split(step), self.g.split(step), strict=True):
            yield self._kernels(a, g, len(a) // size)

    def _together(self, size: int) -> int:
        """Returns how many groups share a call; on a GPU all of them do."""
        if self.g.device.type != "cpu":
            return self.groups.count
        elements = (self.a[0].numel() + self.g[0].numel()) * size
        if size > 1 and elements > _WORTH_COPYING:
            return 1
        return max(1, _TOGETHER // self.layer.weight.numel())

    def _kernels(self, a: Tensor, g: Tensor, count: int) -> Tensor:
        """Returns the kernels' gradients [c, *shape] of c equal groups of samples, in one call.

        By the function that plain training uses: c groups are c groups of channels to it, the
        samples of a group stay its batch.
        """
        layer = self.layer
        a, padding = self._padded(a)
        weight = layer.weight.detach().to(g.dtype)
        if count > 1:
            a, g = _as_channels(a, count), _as_channels(g, count)
            weight = weight.repeat(count, *[1] * (weight.dim() - 1))
        found: Tensor = torch.ops.aten.convolution_backward(
            g, a, weight, None, layer.stride, padding, layer.dilation, layer.transposed,
            self._beyond(a, g), count * layer.groups, [False, True, False],
        )[1]  # fmt: skip
        return found.view(count, *layer.weight.shape)

    def _beyond(self, a: Tensor, g: Tensor) -> Sequence[int]:
        """Returns the `output_padding` of this call, which an `output_size` may have changed."""
        layer = self.layer
        if not layer.transposed:
            return layer.output_padding
        sizes = zip(a.shape[2:], g.shape[2:], layer.kernel_size, strict=True)
        steps = zip(layer.stride, cast(Sequence[int], layer.padding), layer.dilation, strict=True)
        return [
            out - (size - 1) * stride + 2 * padding - dilation * (kernel - 1) - 1
            for (size, out, kernel), (stride, padding, dilation) in zip(sizes, steps, strict=True)
        ]

    def _padded(self, a: Tensor) -> tuple[Tensor, Sequence[int]]:
        """Returns the input padded as the kernel cannot, and what is left for it to pad."""
        layer = self.layer
        if layer.padding_mode != "zeros":
            both = layer._reversed_padding_repeated_twice
            return F.pad(a, both, mode=layer.padding_mode), [0] * len(layer.stride)
        if isinstance(layer.padding, str):  # "same" may pad one side more than the other
            return F.pad(a, layer._reversed_padding_repeated_twice), [0] * len(layer.stride)
        return a, layer.padding


def _as_channels(samples: Tensor, count: int) -> Tensor:
    """Returns [b, c * channels, *space] from c groups of b samples [c b, channels, *space]."""
    grouped = samples.reshape(count, -1, *samples.shape[1:]).transpose(0, 1)
    return grouped.reshape(len(grouped), -1, *samples.shape[2:])
