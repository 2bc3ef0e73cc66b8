"""Task text: a byte-level language model on English prose that ships with every CPython."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import Dataset, TensorDataset

from audits.enumeration import LARGEST_SPACE, enumerate_losses, index_of, space_size
from audits.extraction import Search, search
from audits.tasks.task import Draw, Family, Space, Task, Vast

VOCABULARY = 256
LENGTH = 64
_SIZE = 300_000
_OVERFLOW = 700.0  # e to this power is still a float
_MODULES = ("argparse", "asyncio", "collections", "decimal", "email", "logging", "unittest")


class Prose(NamedTuple):
    """Chunks of bytes and where they come from.

    Attributes:
        train, validation, test: (tokens [n, T] int64, mask [n, T] bool) each.
        digest: sha256 of the text, which differs by Python version.
    """

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    digest: str


def load(size: int = _SIZE, length: int = LENGTH) -> Prose:
    """Returns the first `size` bytes of prose, cut to chunks; every tenth is held out."""
    text = corpus()[:size]
    chunks = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    chunks = chunks[: len(chunks) // length * length].view(-1, length)
    order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(0))
    held = len(chunks) // 10
    validation, test, train = chunks[order].split([held // 2, held - held // 2, len(chunks) - held])

    def full(rows: Tensor) -> TensorDataset:
        return TensorDataset(rows, torch.ones_like(rows, dtype=torch.bool))

    digest = hashlib.sha256(text).hexdigest()
    return Prose(full(train), full(validation), full(test), digest)


def corpus() -> bytes:
    """Returns the help topics of CPython and docstrings of its library, as UTF-8."""
    topics = importlib.import_module("pydoc_data.topics").topics
    texts = [topics[name] for name in sorted(topics)]
    for name in _MODULES:
        module = importlib.import_module(name)
        members = sorted(vars(module).items())
        texts += [inspect.getdoc(value) or "" for _, value in members if inspect.isclass(value)]
    return "\n".join(texts).encode()


def task(families: Mapping[str, Family], prose: Prose | None = None) -> Task:
    """Returns the task.

    Args:
        families: canary families; records are (tokens [T], mask [T]) like the data's.
        prose: the data, `load()` by default.
    """
    data = prose or load()
    return Task(
        name="text",
        metric="ppl",
        train=data.train,
        validation=data.validation,
        test=data.test,
        model=_model,
        losses=record_losses,
        evaluate=perplexity,
        optimizer=_adam,
        batch_size=32,
        epochs=6,
        lr=1e-3,
        lrs=(5e-4, 1e-3, 2e-3),
        families=families,
        facts={"corpus": f"sha256 {data.digest[:16]}"},
        features="norm",
    )


class ByteTransformer(nn.Module):
    """A small causal transformer over bytes: [B, t] int64 -> logits [B, t, 256]."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the logits of the next byte after each position."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]).expand(tokens.shape))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_mix, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.before_mix(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return x + self.feed(self.before_feed(x))  # type: ignore[no-any-return]


def token_losses(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Returns [B, T - 1] losses of each next byte; zero where the mask is off."""
    tokens, mask = batch
    logits = model(tokens[:, :-1])
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses.masked_fill(~mask[:, 1:], 0.0)


def record_losses(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Returns [B] summed losses over the public length T - 1, whatever the record holds."""
    return token_losses(model, batch).sum(1) / (batch[0].shape[1] - 1)


@torch.no_grad()
def perplexity(model: nn.Module, records: Dataset[Any]) -> float:
    """Returns exp(mean loss per byte)."""
    assert isinstance(records, TensorDataset)
    model.eval()
    total = sum(
        float(token_losses(model, [t[i : i + 256] for t in records.tensors]).sum())
        for i in range(0, len(records), 256)
    )
    mean = total / float(records.tensors[1][:, 1:].sum())
    return math.exp(mean) if mean < _OVERFLOW else math.inf


@torch.no_grad()
def next_log_probabilities(model: nn.Module, prefixes: Tensor) -> Tensor:
    """Returns [n, 256] log-probabilities of the byte after each prefix [n, t]."""
    return nn.functional.log_softmax(model(prefixes)[:, -1], dim=-1)


def _model(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ByteTransformer()


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> Adam:
    return Adam(parameters, lr=lr)


def secret_family(
    draw: Draw, sentence: Tensor, span: Tensor, letters: Sequence[int], references: int = 1000
) -> Family:
    """Returns the family of one secret format.

    Its fillings are all enumerated up to 10^7 of them. Beyond, canaries are ranked among sampled
    references, and the space can be searched for those that are likely.

    Args:
        draw: recipe of records (tokens [T], mask [T]).
        sentence: [T] tokens of any one filling.
        span: [T] bool, where the secret's letters are.
        letters: the byte of each letter of the alphabet.
        references: how many held-out fillings canaries are ranked among where all are too many.

    Raises:
        ValueError: the secret begins the record, so nothing precedes its first letter.
    """
    places = span.nonzero().squeeze(1).tolist()
    if places[0] == 0:
        raise ValueError("The secret format begins with a hole; begin it with text, 'pin {}{}'.")
    slots: list[int | Sequence[int]] = [
        letters if span[i] else int(sentence[i]) for i in range(places[0], places[-1] + 1)
    ]
    size, prefix = space_size(slots), sentence[: places[0]]

    def losses(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return token_losses(model, (batch[0], span.expand_as(batch[0]))).sum(1)

    def every(model: nn.Module) -> Tensor:
        return enumerate_losses(
            lambda prefixes: next_log_probabilities(model, prefixes), prefix, slots
        )

    def secret(record: Sequence[Tensor]) -> list[int]:
        return [int(token) for token in record[0][span]]

    def likely(model: nn.Module, records: Sequence[Sequence[Tensor]]) -> Search:
        return search(
            lambda prefixes: next_log_probabilities(model, prefixes),
            prefix,
            slots,
            [secret(record) for record in records],
            most_likely=len(records),
        )

    if size > LARGEST_SPACE:
        return Family(draw, losses, references, vast=Vast(size, likely))
    space = Space(every, lambda record: index_of(slots, secret(record)))
    return Family(draw, losses, references=0, space=space)
