"""Training runs that one process with virtual cores and several ranks both do."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dpclip import (
    PrivacyEngine,
    chain,
    clip,
    clip_to_min,
    micro_batches,
    normalize,
    per_core,
    per_layer,
    per_sample,
    quantile,
)
from dpclip.types import Grouping, Weighting

RULES = {
    "clip": lambda: clip(0.3),
    "min": clip_to_min,
    "layers": lambda: per_layer(clip(0.1)),
    "quantile": lambda: quantile(0.5, bound=0.3),
    "counted": lambda: quantile(0.5, bound=0.3, count_noise=1.0),
    "chain": lambda: chain(normalize(0.1), clip_to_min()),
}


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model: mlp, conv, or wide (many coordinates).
        groups: position, fixed (cores), sample or random (micro-batches).
        rule: a name in RULES.
        sigma: noise multiplier.
        steps: optimizer steps.
        limit: largest physical batch, or None.
        size: largest physical batch in samples times the longest, or None.
        batch: expected logical batch.
        wrapped: whether ranks wrap the model in DistributedDataParallel.
        loop: whether the model runs once for each group.
        slices: how many backward passes for each physical batch.
        scale: of the loss; 0 leaves nothing but noise.
    """

    model: str = "mlp"
    groups: str = "position"
    rule: str = "clip"
    sigma: float = 0.0
    steps: int = 50
    limit: int | None = None
    size: int | None = None
    batch: int = 16
    wrapped: bool = False
    loop: bool = False
    slices: int = 1
    scale: float = 1.0

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in vars(self).values())


RUNS = [
    *(
        Run(model, groups, rule)
        for model in ("mlp", "conv")
        for groups in ("position", "fixed")
        for rule in ("clip", "min")
    ),
    Run(rule="clip", wrapped=True),
    Run("conv", rule="min", wrapped=True),
    *(Run(rule=rule, steps=12) for rule in ("layers", "quantile", "counted", "chain")),
    Run(groups="fixed", rule="min", limit=3, steps=12),
    Run(groups="position", rule="clip", limit=5, steps=12),
    Run(groups="fixed", rule="min", slices=3, steps=12),
    Run(groups="fixed", rule="min", batch=4, steps=30),  # ranks without a record, empty batches
    Run(groups="position", rule="clip", batch=4, steps=30, limit=2),
    Run(groups="sample", size=120, steps=12),
    Run(groups="random", size=120, limit=5, steps=12),
    Run(groups="fixed", rule="min", size=120, steps=12),
    Run(groups="position", rule="clip", batch=4, size=60, steps=30),
    Run(groups="fixed", rule="clip", loop=True, steps=12),
    Run(groups="sample", rule="clip", steps=12),
    Run(groups="random", rule="clip", steps=12, limit=5, slices=2),
    Run(groups="fixed", rule="clip", sigma=1.0, steps=12),
    Run(groups="sample", rule="clip", sigma=1.0, batch=2, steps=12),
    Run("wide", "fixed", sigma=1.5, scale=0.0, steps=1),
]


def grouping(run: Run, cores: int | None) -> Grouping:
    """Returns the run's groups; for the ranks, `cores` is None."""
    if run.groups == "sample":
        return per_sample()
    if run.groups == "random":
        return micro_batches(4, slots="random")
    return per_core(cores, slots="fixed" if run.groups == "fixed" else "position")


def weighting(run: Run) -> Weighting:
    return RULES[run.rule]()


def model(run: Run) -> nn.Module:
    torch.manual_seed(0)
    if run.model == "wide":
        return nn.Linear(8, 5000)
    if run.model == "mlp":
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)),
        nn.Conv2d(2, 8, 2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 3),
    )


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(120, 8, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def train(run: Run, cores: int | None, around=lambda m: m) -> tuple[nn.Module, PrivacyEngine]:
    """Returns the trained model and its engine.

    Args:
        run: what to train.
        cores: virtual cores, None for ranks.
        around: wraps the model before it is made private.
    """
    net = around(model(run))
    engine = PrivacyEngine(seed=3, measure=False, loop=run.loop)
    _, optimizer, loader = engine.make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.2),
        data_loader=DataLoader(data(), batch_size=run.batch),
        noise_multiplier=run.sigma,
        grouping=grouping(run, cores),
        weighting=weighting(run),
        max_physical_batch=run.limit,
        max_physical_size=run.size,
        lengths=None if run.size is None else [1 + (i * 37) % 50 for i in range(120)],
    )
    while engine.steps < run.steps:
        for x, y in loader:
            optimizer.zero_grad()
            for part in _slices(len(x), run.slices):
                (run.scale * F.cross_entropy(net(x[part]), y[part])).backward()
            optimizer.step()
            if engine.steps == run.steps:
                break
    return net, engine


def leave() -> None:
    """Ends a rank once all are here; threads of gloo may hang or abort at an ordinary end."""
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def _slices(rows: int, count: int) -> list[Tensor]:
    return [part for part in torch.arange(rows).tensor_split(count) if len(part)]
