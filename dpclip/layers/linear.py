"""Group rows of nn.Linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum


def linear_rows(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Tensor]:
    """Returns weight rows [G, out, in] and bias rows [G, out].

    Groups of b consecutive samples fold into the sequence axis: [B, T, d] is a view [G, b T, d],
    and one batched product gives the group sums without any per-sample gradient.

    Args:
        module: the nn.Linear.
        inputs: one tensor A [B, ..., in].
        gout: [B, ..., out].
        groups: the groups of the B samples.
    """
    layer = cast(nn.Linear, module)
    a, g = inputs[0].to(gout.dtype), gout
    a, g = kept_rows(a, groups), kept_rows(g, groups)
    folded = groups.equal is not None
    lead = groups.count if folded else len(groups.index)
    a = a.reshape(lead, -1, a.shape[-1])
    g = g.reshape(lead, -1, g.shape[-1])
    rows: dict[nn.Parameter, Tensor] = {}
    if layer.weight.requires_grad:
        # One row per group is an outer product, for which bmm takes three times as long.
        outer = a.shape[1] == 1
        samples = g.transpose(1, 2) * a if outer else torch.bmm(g.transpose(1, 2), a)
        rows[cast(nn.Parameter, layer.weight)] = samples if folded else segment_sum(samples, groups)
    if layer.bias is not None and layer.bias.requires_grad:
        samples = g.sum(1)
        rows[layer.bias] = samples if folded else segment_sum(samples, groups)
    return rows
