"""nn.MultiheadAttention and what is built of it, with dropout inside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

E = 8


class Attend(nn.Module):
    """Attention between two layers, [B, T, d] outside."""

    def __init__(self, kind, dropout=0.0, **how):
        super().__init__()
        self.kind, self.first = kind, how.get("batch_first", False)
        self.attention = nn.MultiheadAttention(E, 2, dropout=dropout, **how)
        for p in self.attention.parameters():
            nn.init.normal_(p)
        self.before, self.memory = nn.Linear(E, E), nn.Linear(4, how.get("kdim") or E)
        self.value = nn.Linear(4, how.get("vdim") or E)

    def forward(self, x, masks=None, weights=False):
        q = self.before(x)
        k = self.memory(x[:, :2, :4])
        v = self.value(x[:, :2, :4])
        q, k, v = {
            "self": (q, q, q),
            "cross": (q, k, k),
            "three": (q, k, v),
            "kv": (q, k, v),
        }[self.kind]
        if not self.first:
            one = [t.transpose(0, 1) for t in dict.fromkeys((q, k, v))]
            known = dict(zip(dict.fromkeys((q, k, v)), one, strict=True))
            q, k, v = known[q], known[k], known[v]
        out, seen = self.attention(q, k, v, need_weights=weights, **(masks or {}))
        out = out if self.first else out.transpose(0, 1)
        return out if not weights else torch.cat([out.flatten(1), seen.flatten(1)], 1)


KINDS = {
    "self": {},
    "cross": {},
    "three": {},
    "kv": {"kdim": 6, "vdim": 7},
}


@pytest.mark.parametrize("rows", [5, 3, 2, 1])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(check, kind, first, rows):
    """T = 3 and S = 2, so B = T and B = S occur; and B = E."""
    for more in ({}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}):
        model = Attend(kind, batch_first=first, **KINDS[kind], **more)
        engine = check(model, torch.randn(rows, 3, E))
        assert engine.trials == 0
    check(model, torch.randn(E, 3, E))


@pytest.mark.parametrize("rows", [5, 3])
@pytest.mark.parametrize("weights", [False, True])
def test_masks(check, weights, rows):
    """attn_mask [T, T] is shared by all samples, key_padding_mask [B, T] is not."""
    model = Attend("self", batch_first=True)
    causal = torch.full((3, 3), float("-inf")).triu(1)
    padding = torch.rand(rows, 3) > 0.7
    padding[:, 0] = False
    for masks in (
        {"attn_mask": causal},
        {"key_padding_mask": padding},
        {"attn_mask": causal.isinf(), "key_padding_mask": padding},
        {"attn_mask": causal.repeat(2 * rows, 1, 1)},
    ):
        check(model, torch.randn(rows, 3, E), masks, weights)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("weights", [False, True])
def test_dropout(check, weights, first):
    model = Attend("self", dropout=0.4, batch_first=first)
    check(model, torch.randn(4, 3, E), None, weights)


class Stack(nn.Module):
    def __init__(self, layer, memory, first):
        super().__init__()
        self.embed, self.layer = nn.Linear(3, E), layer
        self.memory, self.first = memory, first

    def forward(self, x):
        h = self.embed(x)
        h = h if self.first else h.transpose(0, 1)
        h = self.layer(h, h.tanh()) if self.memory else self.layer(h)
        return h if self.first else h.transpose(0, 1)


@pytest.mark.parametrize("rows", [5, 3])
@pytest.mark.parametrize("first", [True, False])
def test_transformer_layers_with_dropout(check, first, rows):
    how = {"dim_feedforward": 12, "batch_first": first}
    encoder = nn.TransformerEncoderLayer(E, 2, **how)
    decoder = nn.TransformerDecoderLayer(E, 2, norm_first=True, **how)
    # The tiny engine of these tests finds no other layout for layers with a rule.
    for model in (Stack(encoder, False, first), Stack(decoder, True, first)):
        check(model, torch.randn(rows, 3, 3), rules=first)


def test_parts_of_the_packed_weight(check):
    """The three thirds of in_proj_weight stay apart."""
    engine = check(Attend("three"), torch.randn(4, 3, E))
    kinds = {(engine.names[p], type(part).__name__) for p, part in engine.parts}
    assert ("attention.in_proj_weight", "Sliced") in kinds
    assert ("attention.out_proj.weight", "Outer") in kinds
    engine = check(Attend("self"), torch.randn(4, 3, E))
    kinds = {(engine.names[p], type(part).__name__) for p, part in engine.parts}
    assert ("attention.in_proj_weight", "Outer") in kinds
