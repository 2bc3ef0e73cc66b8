"""The transformer block that the GPT and the ViT are made of."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Pre-norm attention and feed-forward, [B, T, d] -> [B, T, d]."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_mix, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the stream with what both parts add."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.before_mix(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        feed: Tensor = self.down(nn.functional.gelu(self.up(self.before_feed(x))))
        return x + feed
