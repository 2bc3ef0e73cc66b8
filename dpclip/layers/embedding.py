"""Group rows of nn.Embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows


def embedding_rows(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Tensor]:
    """Returns weight rows [G, V, d], added up at `group * V + id` (never one-hot).

    Args:
        module: the nn.Embedding.
        inputs: one tensor of ids [B, ...].
        gout: [B, ..., d].
        groups: the groups of the B samples.

    Raises:
        ValueError: scale_grad_by_freq, which lets the other samples scale a sample's gradient.
    """
    layer = cast(nn.Embedding, module)
    if layer.scale_grad_by_freq:
        raise ValueError(
            "Embedding(scale_grad_by_freq=True) scales each sample's gradient by how often the "
            "whole batch uses a token, so no per-group gradient exists. Turn it off."
        )
    ids, g = kept_rows(inputs[0], groups), kept_rows(gout, groups)
    words, width = layer.weight.shape
    lead = len(groups.index)
    group = groups.index.to(ids.device).view(lead, 1)
    flat = (group * words + ids.reshape(lead, -1)).reshape(-1)
    rows = g.new_zeros(groups.count * words, width).index_add_(0, flat, g.reshape(-1, width))
    rows = rows.view(groups.count, words, width)
    if layer.padding_idx is not None:
        rows[:, layer.padding_idx] = 0
    return {cast(nn.Parameter, layer.weight): rows}
