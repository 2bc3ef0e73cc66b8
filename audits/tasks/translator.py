"""A small transformer that translates (Vaswani et al. 2017), and its greedy decoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audits.tasks.subwords import BEGIN, END, PAD


class Translator(nn.Module):
    """Encoder and decoder with normalization before each block, 128 wide.

    Source and target have embeddings of their own, and the head has a weight of its own: a weight
    that is used once costs per-sample methods least.

    Args:
        vocabulary: number of tokens.
        length: of the longest sequence.
        width: of all vectors.
        layers: blocks of the encoder, and of the decoder.
        heads: of every attention.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int = 128, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.source = _Embedding(vocabulary, length, width)
        self.target = _Embedding(vocabulary, length, width)
        self.encoder = nn.ModuleList(_Encoding(width, heads) for _ in range(layers))
        self.decoder = nn.ModuleList(_Decoding(width, heads) for _ in range(layers))
        self.encoded, self.decoded = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Returns logits [B, t, V] of the token after each of target [B, t], for source [B, s]."""
        memory, seen = self.encode(source)
        return self.head(self.decode(memory, seen, target))  # type: ignore[no-any-return]

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the encoding [B, s, d] and which places may be looked at, [B, 1, 1, s] bool."""
        seen = (source != PAD)[:, None, None, :]
        x = self.source(source)
        for block in self.encoder:
            x = block(x, seen)
        return self.encoded(x), seen

    def decode(self, memory: Tensor, seen: Tensor, target: Tensor) -> Tensor:
        """Returns [B, t, d], what the head sees."""
        x = self.target(target)
        for block in self.decoder:
            x = block(x, memory, seen)
        return self.decoded(x)  # type: ignore[no-any-return]


class _Embedding(nn.Module):
    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1]).expand(tokens.shape)
        return self.tokens(tokens) + self.positions(places)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, context: Tensor, seen: Tensor | None) -> Tensor:
        """Returns [B, t, d]; without `seen` every place looks at itself and those before it."""
        b, t, d = x.shape
        q = self.query(x).view(b, t, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(context).view(b, -1, 2, self.heads, d // self.heads).unbind(2)
        mixed = nn.functional.scaled_dot_product_attention(
            q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen, is_causal=seen is None
        )
        return self.out(mixed.transpose(1, 2).reshape(b, t, d))  # type: ignore[no-any-return]


def _feed(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
    )


class _Encoding(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.mix, self.feed = nn.LayerNorm(width), _Attention(width, heads), _feed(width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.mix(y, y, seen)
        return x + self.feed(x)  # type: ignore[no-any-return]


class _Decoding(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), _Attention(width, heads)
        self.norm_across, self.across = nn.LayerNorm(width), _Attention(width, heads)
        self.feed = _feed(width)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.mix(y, y, None)
        x = x + self.across(self.norm_across(x), memory, seen)
        return x + self.feed(x)  # type: ignore[no-any-return]


@torch.no_grad()
def translate(model: nn.Module, sources: Tensor, length: int) -> list[list[int]]:
    """Returns the tokens that are likeliest one by one, up to the end or `length` of them.

    Args:
        model: a Translator, put into eval mode.
        sources: [n, s] tokens.
        length: of the longest translation.
    """
    assert isinstance(model, Translator)
    model.eval()
    memory, seen = model.encode(sources)
    found = torch.full((len(sources), 1), BEGIN)
    ended = torch.zeros(len(sources), dtype=torch.bool)
    for _ in range(length):
        following = model.head(model.decode(memory, seen, found)[:, -1]).argmax(1)
        found = torch.cat([found, following.masked_fill(ended, PAD)[:, None]], dim=1)
        ended |= following == END
        if ended.all():
            break
    return [[t for t in row if t not in (PAD, BEGIN, END)] for row in found.tolist()]
