"""Which rule forms the group rows of which layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum
from dpclip.layers.conv import conv_rows
from dpclip.layers.embedding import bag_rows, embedding_rows
from dpclip.layers.linear import linear_rows

Rows = dict[nn.Parameter, Tensor]
Rule = Callable[[nn.Module, Sequence[Tensor], Tensor, Groups], Rows]
"""(layer, inputs [B, ...], output gradient [B, ...], groups) -> {parameter: rows [G, ...]}."""

GROUP_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear_rows,
    nn.Embedding: embedding_rows,
    nn.EmbeddingBag: bag_rows,
    nn.Conv1d: conv_rows,
    nn.Conv2d: conv_rows,
    nn.Conv3d: conv_rows,
}
"""Rules that need less than the B per-sample gradients of a layer. Exact types only: a subclass
may have another forward."""


def rule_for(module: nn.Module) -> tuple[str, Rule] | None:
    """Returns (name, rule) of a layer: ours, else the sampler registered with Opacus, else None."""
    kind = type(module)
    if kind in GROUP_RULES:
        return "dpclip", GROUP_RULES[kind]
    # Opacus' sampler of LayerNorm reads layer.bias.requires_grad.
    unbiased = isinstance(module, nn.LayerNorm) and module.bias is None
    if kind in GradSampleHooks.GRAD_SAMPLERS and not unbiased:
        return "opacus", _sampled_rows
    return None


def _sampled_rows(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> Rows:
    """Returns sums of the per-sample gradients of a sampler registered with Opacus.

    Memory: B samples of this layer for the moment, G rows after.
    """
    samples = GradSampleHooks.GRAD_SAMPLERS[type(module)](module, list(inputs), gout)
    return {p: segment_sum(kept_rows(sample, groups), groups) for p, sample in samples.items()}
