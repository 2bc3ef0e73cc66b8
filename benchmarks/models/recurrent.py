"""An LSTM language model and a tagger of two GRUs, one in each direction."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.models.data import tokens
from benchmarks.models.losses import token_losses
from benchmarks.models.workload import Workload, seeded


class Recurrent(nn.Module):
    """Tokens [B, T] -> logits [B, T, K] by an embedding, a recurrent layer and a head."""

    def __init__(self, vocabulary: int, layer: nn.LSTM | nn.GRU, classes: int) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(vocabulary, layer.input_size), layer
        self.head = nn.Linear(layer.hidden_size * (1 + layer.bidirectional), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits at each position."""
        states, _ = self.layer(self.embedding(x))
        logits: Tensor = self.head(states)
        return logits


def lstm(
    vocabulary: int = 2000, width: int = 256, length: int = 64, *, batch: int = 32
) -> Workload:
    """Returns a language model: embedding and hidden 256, T=64, vocabulary 2,000."""

    def build() -> nn.Module:
        return Recurrent(vocabulary, nn.LSTM(width, width, batch_first=True), vocabulary)

    data = tokens(batch, length, vocabulary, vocabulary)
    return Workload(seeded(build), data, token_losses, features="embedding")


def tagger(
    vocabulary: int = 1000, width: int = 128, length: int = 48, *, tags: int = 20, batch: int = 32
) -> Workload:
    """Returns a bidirectional GRU that tags each token: hidden 128, T=48, 20 tags."""

    def build() -> nn.Module:
        layer = nn.GRU(width, width, batch_first=True, bidirectional=True)
        return Recurrent(vocabulary, layer, tags)

    data = tokens(batch, length, vocabulary, tags)
    return Workload(seeded(build), data, token_losses, features="embedding")
