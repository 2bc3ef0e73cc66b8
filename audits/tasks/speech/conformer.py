"""A small Conformer (Gulati et al. 2020) that gives letters to frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audits.tasks.speech import alphabet
from audits.tasks.speech.extra import needed
from audits.tasks.speech.frames import MaskedNorm, inside
from audits.tasks.speech.records import SUBSAMPLING, halved

_DEPTHWISE, _NORM = 2, 3  # places in the convolution module of torchaudio's layer


class ConformerCTC(nn.Module):
    """torchaudio's Conformer layers: [B, T, M] features -> [B, ceil(T / 2), letters] log p.

    They run here and not in torchaudio's own forward, in which a record depends on what it is
    padded to: its depthwise convolution reads the padding, and its group norm averages over it.
    The layers and their weights are torchaudio's.

    Args:
        bands: M, of the features.
        width: of all frames.
        layers: of the Conformer.
        heads: of every attention.
        kernel: frames that a depthwise convolution sees, odd.
        augment: what the features go through in training, such as `SpecAugment`; None for nothing.

    Raises:
        ModuleNotFoundError: torchaudio is missing.
    """

    def __init__(
        self,
        bands: int,
        width: int = 96,
        layers: int = 4,
        heads: int = 4,
        kernel: int = 15,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.augment = augment
        self.enter = nn.Conv1d(bands, width, 5, stride=SUBSAMPLING, padding=2)
        self.conformer = needed("torchaudio.models").Conformer(
            input_dim=width,
            num_heads=heads,
            ffn_dim=2 * width,
            num_layers=layers,
            depthwise_conv_kernel_size=kernel,
            use_group_norm=True,
        )
        for layer in self.conformer.conformer_layers:
            layer.self_attn.batch_first = True
            layer.conv_module.sequential[_NORM] = MaskedNorm(width)
        self.pooled = nn.Identity()
        self.head = nn.Linear(width, alphabet.SIZE)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Returns log probabilities of blank and letters, for frames [B] of each record."""
        if self.augment is not None:
            features = self.augment(features, frames)
        x = self.enter(features.transpose(1, 2) * inside(frames, features.shape[1]))
        seen = inside(halved(frames), x.shape[2])
        x = torch.relu(x).transpose(1, 2)
        for layer in self.conformer.conformer_layers:
            x = _layer(layer, x, seen)
        self.pooled((x.transpose(1, 2) * seen).sum(2) / seen.sum(2))
        return self.head(x).log_softmax(2)  # type: ignore[no-any-return]


def _layer(layer: Any, x: Tensor, seen: Tensor) -> Tensor:
    """Returns what a ConformerLayer makes of x [B, T, d], as in Gulati et al., figure 1."""
    x = x + layer.ffn1(x) / 2
    y = layer.self_attn_layer_norm(x)
    y, _ = layer.self_attn(y, y, y, key_padding_mask=~seen[:, 0], need_weights=False)
    x = x + layer.self_attn_dropout(y)
    x = x + _convolved(layer.conv_module, x, seen)
    x = x + layer.ffn2(x) / 2
    return layer.final_layer_norm(x)  # type: ignore[no-any-return]


def _convolved(module: Any, x: Tensor, seen: Tensor) -> Tensor:
    """Returns what the convolution module makes of x [B, T, d], without a look at the padding."""
    y = module.layer_norm(x).transpose(1, 2)
    for place, part in enumerate(module.sequential):
        if place == _DEPTHWISE:
            y = y * seen
        y = part(y, seen) if place == _NORM else part(y)
    return y.transpose(1, 2)  # type: ignore[no-any-return]
