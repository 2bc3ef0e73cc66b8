"""Models, data, and the slow, obvious twin of the engine: one autograd call for each group."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpclip import PrivacyEngine
from dpclip.types import Stats, Weighting

CLASSES = 5


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_num_threads(1)  # two test processes with two threads each are ten times slower
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvNet(nn.Module):
    """Strides, padding, GroupNorm and activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=2, padding=(1, 0), bias=False),
            nn.GroupNorm(3, 6),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.first(x)).view(b, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """A language model with learned positions and a tied head.

    `positions` 1 embeds [T], 2 embeds [1, T], 3 embeds [T] and unsqueezes.
    """

    def __init__(self, positions: int = 1, vocabulary: int = 9, time: int = 5) -> None:
        super().__init__()
        self.positions = positions
        self.tokens, self.places = nn.Embedding(vocabulary, 8), nn.Embedding(time, 8)
        self.block, self.norm = Block(8), nn.LayerNorm(8)
        self.head = nn.Linear(8, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1])
        places = self.places(steps[None] if self.positions == 2 else steps)
        return self.head(self.norm(self.block(self.tokens(x) + places)))


def mean_loss(output: Tensor, y: Tensor) -> Tensor:
    """Mean over samples of a loss per sample (mean over time in a sample)."""
    if output.dim() == 3:
        return F.cross_entropy(output.transpose(1, 2), y)
    return F.cross_entropy(output, y)


def sum_loss(output: Tensor, y: Tensor) -> Tensor:
    return mean_loss(output, y) * len(y)


def images(n: int = 40) -> TensorDataset:
    return TensorDataset(torch.randn(n, 2, 7, 6), torch.randint(CLASSES, (n,)))


def vectors(n: int = 40) -> TensorDataset:
    return TensorDataset(torch.randn(n, 6), torch.randint(CLASSES, (n,)))


def texts(n: int = 40) -> TensorDataset:
    return TensorDataset(torch.randint(9, (n, 5)), torch.randint(9, (n, 5)))


@dataclass
class Twin:
    """The float64 loop: the gradient of each group by autograd on a copy, then the definition."""

    model: nn.Module
    weighting: Weighting
    reduction: str = "mean"
    state: Any = None
    loss: Callable[[Tensor, Tensor], Tensor] = mean_loss
    params: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.state = self.weighting.init([p.shape for p in self.params])

    def group(self, x: Tensor, y: Tensor, size: float | None) -> tuple[Tensor, ...]:
        """u_g: gradient of the sum of the losses of one group, over its size for a mean."""
        total = self.loss(self.model(x), y) * len(x)
        if self.reduction == "mean":
            total = total / (len(x) if size is None else size)
        grads = torch.autograd.grad(total, self.params, allow_unused=True)
        return tuple(
            torch.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)
        )

    def update(self, x: Tensor, y: Tensor, slots: Tensor, divisor: Any) -> list[Tensor]:
        """What p.grad must be after backward on a batch with these slots."""
        size = divisor.size if divisor else None
        held = [(slots == s).nonzero()[:, 0] for s in slots.unique()]
        rows = [self.group(x[i], y[i], size) for i in held]
        count = divisor.groups if divisor else float(len(rows))
        layers = torch.tensor([[u.norm() for u in row] for row in rows]).T
        norms = layers.norm(dim=0)
        sizes = torch.tensor([len(i) for i in held])
        stats = Stats(norms, layers, sizes, norms.isfinite(), count)
        weights, state = self.weighting.weigh(stats, self.state)
        self.state = self.weighting.finish(state, None)
        weights = weights.expand(len(self.params), len(rows))
        d = count if self.reduction == "mean" else 1.0
        return [
            sum((w * row[i] for w, row in zip(weights[i], rows, strict=True)), torch.zeros(())) / d
            for i in range(len(self.params))
        ]

    def follow(self, model: nn.Module) -> None:
        self.model.load_state_dict(model.state_dict())


@dataclass
class Trained:
    """A model made private, with its twin."""

    engine: PrivacyEngine
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]
    twin: Twin

    @property
    def inner(self) -> Any:
        return self.engine._engine

    @property
    def grads(self) -> list[Tensor]:
        return [p.grad.clone() for p in self.inner.params]

    def expected(self, x: Tensor, y: Tensor) -> list[Tensor]:
        piece = self.inner.yielded.piece
        return self.twin.update(x, y, piece.slots[piece.real], self.inner.yielded.divisor)


def close(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-9) -> None:
    scale = max((float(w.abs().max()) for w in wanted if w.numel()), default=1.0)
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        assert f.shape == w.shape
        assert float((f - w).abs().max()) <= rtol * max(scale, 1e-300)


def private(
    model: nn.Module,
    data: Dataset[Any],
    *,
    batch_size: int = 8,
    noise_multiplier: float = 0.0,
    seed: int = 1,
    lr: float = 0.5,
    reduction: str = "mean",
    weighting: Weighting | None = None,
    memory: str | int = "fast",
    measure: bool = False,
    loop: bool = False,
    fixed_shape: bool = False,
    **more: Any,
) -> Trained:
    if weighting is None and "max_grad_norm" not in more:
        from dpclip import uniform

        weighting = uniform()
    twin_rule = weighting
    if twin_rule is None:
        from dpclip import clip

        twin_rule = clip(more["max_grad_norm"])
    twin = Twin(copy.deepcopy(model), twin_rule, reduction)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    engine = PrivacyEngine(
        seed=seed, memory=memory, measure=measure, loop=loop, fixed_shape=fixed_shape
    )
    made = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=batch_size),
        noise_multiplier=noise_multiplier,
        weighting=weighting,
        loss_reduction=reduction,
        **more,
    )
    return Trained(engine, *made, twin)


def agree(trained: Trained, steps: int = 3, rtol: float = 1e-9, loss: Any = None) -> None:
    """Trains, and compares p.grad with the twin after every backward."""
    loss = loss or (mean_loss if trained.twin.reduction == "mean" else sum_loss)
    epochs = itertools.chain.from_iterable(itertools.repeat(trained.loader))
    for x, y in itertools.islice(epochs, steps):
        trained.optimizer.zero_grad()
        loss(trained.model(x), y).backward()
        if bool(trained.inner.yielded.piece.real.all()):
            close(trained.grads, trained.expected(x, y), rtol)
        trained.optimizer.step()
        trained.twin.follow(trained.model)


@dataclass(frozen=True)
class Kit:
    """Everything above, handed to tests as one fixture."""

    Mlp = Mlp
    ConvNet = ConvNet
    Transformer = Transformer
    Block = Block
    Twin = Twin
    mean_loss = staticmethod(mean_loss)
    sum_loss = staticmethod(sum_loss)
    images = staticmethod(images)
    vectors = staticmethod(vectors)
    texts = staticmethod(texts)
    private = staticmethod(private)
    agree = staticmethod(agree)
    close = staticmethod(close)


@pytest.fixture
def kit() -> Kit:
    return Kit()
