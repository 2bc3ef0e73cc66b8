"""Which rule gives the group gradients of which layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from dpclip.groups import Groups, kept_rows, segment_sum
from dpclip.layers.conv import conv_parts
from dpclip.layers.embedding import bag_parts, embedding_parts
from dpclip.layers.linear import linear_parts
from dpclip.layers.norm import (
    forward_statistics,
    group_norm_parts,
    layer_norm_parts,
    rms_norm_parts,
)
from dpclip.parts import Formed, Part

Parts = dict[nn.Parameter, Part]
Rule = Callable[[nn.Module, Sequence[Tensor], Tensor, Groups], Parts]
"""(layer, inputs [B, ...], output gradient [B, ...], groups) -> {parameter: its part}."""

GROUP_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear_parts,
    nn.Embedding: embedding_parts,
    nn.EmbeddingBag: bag_parts,
    nn.Conv1d: conv_parts,
    nn.Conv2d: conv_parts,
    nn.Conv3d: conv_parts,
    nn.ConvTranspose1d: conv_parts,
    nn.ConvTranspose2d: conv_parts,
    nn.ConvTranspose3d: conv_parts,
    nn.LayerNorm: layer_norm_parts,
    nn.RMSNorm: rms_norm_parts,
    nn.GroupNorm: group_norm_parts,
    nn.InstanceNorm1d: group_norm_parts,
    nn.InstanceNorm2d: group_norm_parts,
    nn.InstanceNorm3d: group_norm_parts,
}
"""Rules that need less than the B per-sample gradients of a layer. Exact types only: a subclass
may have another forward."""


LOOKS: dict[type[nn.Module], Callable[[Tensor], tuple[Tensor, ...]]] = dict.fromkeys(
    (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    forward_statistics,
)
"""What a rule takes as further inputs, found in the output of the forward: batch axis as there."""


def rule_for(module: nn.Module) -> tuple[str, Rule] | None:
    """Returns (name, rule) of a layer: ours, else the sampler registered with Opacus, else None."""
    kind = type(module)
    if kind in GROUP_RULES:
        return "dpclip", GROUP_RULES[kind]
    if kind in GradSampleHooks.GRAD_SAMPLERS:
        return "opacus", _sampled_parts
    return None


def _sampled_parts(
    module: nn.Module, inputs: Sequence[Tensor], gout: Tensor, groups: Groups
) -> Parts:
    """Returns sums of the per-sample gradients of a sampler registered with Opacus.

    Memory: B samples of this layer for the moment, G rows after.
    """
    samples = GradSampleHooks.GRAD_SAMPLERS[type(module)](module, list(inputs), gout)
    return {p: Formed(segment_sum(kept_rows(s, groups), groups)) for p, s in samples.items()}
