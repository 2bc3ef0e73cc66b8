"""Group gradients of nn.Embedding and nn.EmbeddingBag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows
from dpclip.parts import Part, Scattered


def embedding_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns the part of the weight [V, d].

    Args:
        module: the nn.Embedding.
        inputs: one tensor of ids [B, ...].
        gout: [B, ..., d].
        groups: the groups of the B samples.

    Raises:
        ValueError: scale_grad_by_freq, which lets the other samples scale a sample's gradient.
    """
    layer = cast(nn.Embedding, module)
    _check_frequency(layer)
    ids, g = kept_rows(inputs[0], groups), kept_rows(gout, groups)
    lead = len(groups.index)
    group = groups.index.to(ids.device).view(lead, 1).expand(lead, ids[0].numel())
    return _added(layer, group.reshape(-1), ids.reshape(-1), g, groups)


def bag_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns the part of the weight [V, d] of an EmbeddingBag in mode "sum" or "mean".

    (The sampler of Opacus 1.6 counts an id that a bag holds twice once.)

    Args:
        module: the nn.EmbeddingBag.
        inputs: ids [B, T], or ids [I] and offsets [B]; then the weights of the ids, if any.
        gout: [B, d].
        groups: the groups of the B bags.

    Raises:
        ValueError: mode "max", scale_grad_by_freq or include_last_offset.
    """
    layer = cast(nn.EmbeddingBag, module)
    _check_frequency(layer)
    if layer.mode == "max" or layer.include_last_offset:
        raise ValueError(
            "EmbeddingBag with mode='max' or include_last_offset=True is not supported. Use "
            "mode='sum' or 'mean', without include_last_offset."
        )
    ids, bags = inputs[0], len(gout)
    if ids.dim() == 2:
        bag = torch.arange(bags, device=ids.device).repeat_interleave(ids.shape[1])
    else:
        bag = torch.bucketize(
            torch.arange(len(ids), device=ids.device), inputs[1].contiguous(), right=True
        ).sub(1)
    ids = ids.reshape(-1)
    weights = next((t.reshape(-1) for t in inputs[1:] if t.is_floating_point()), None)
    counted = torch.ones_like(ids, dtype=gout.dtype)
    if layer.padding_idx is not None:
        counted = (ids != layer.padding_idx).to(gout.dtype)
    if layer.mode == "mean":
        held = gout.new_zeros(bags).index_add_(0, bag, counted)
        counted = counted / held.clamp(min=1)[bag]
    # Group -1 for the padding rows of a batch, which are left out before any arithmetic.
    of_bag = torch.full_like(bag[:1], -1).expand(bags).clone()
    kept = torch.arange(bags) if groups.keep is None else groups.keep
    of_bag[kept.to(ids.device)] = groups.index.to(ids.device)
    group = of_bag[bag]
    real = group >= 0
    g = gout[bag] * (counted if weights is None else counted * weights)[:, None]
    return _added(layer, group[real], ids[real], g[real], groups)


def _check_frequency(layer: nn.Embedding | nn.EmbeddingBag) -> None:
    if layer.scale_grad_by_freq:
        raise ValueError(
            f"{type(layer).__name__}(scale_grad_by_freq=True) scales each sample's gradient by how "
            "often the whole batch uses a token, so no per-group gradient exists. Turn it off."
        )


def _added(
    layer: nn.Embedding | nn.EmbeddingBag, owner: Tensor, ids: Tensor, g: Tensor, groups: Groups
) -> dict[nn.Parameter, Part]:
    """Returns the part with g [J, ..., d] at the places ids [J] of groups owner [J]."""
    words, width = layer.weight.shape
    g = g.reshape(-1, width)
    if layer.padding_idx is not None:
        g = g.masked_fill((ids == layer.padding_idx)[:, None], 0.0)
    return {cast(nn.Parameter, layer.weight): Scattered(ids, owner, g, words, groups)}
