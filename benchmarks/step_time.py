"""Step time of each way to clip, as a ratio to a plain training step.

All ways run in one process, interleaved, each on its own copy of the model; the figure is the
median over rounds of the ratio to the plain step of the same round. The machine's load is printed,
since a busy machine makes every ratio wrong.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from tabulate import tabulate
from torch import Tensor, nn

from audits.tasks.text import ByteTransformer
from dpclip.engine import Engine
from dpclip.grouping import micro_batches, per_core, per_sample
from dpclip.ledger import Ledger
from dpclip.noise import gaussian
from dpclip.types import Grouping
from dpclip.weighting import clip

Loss = Callable[[nn.Module], Tensor]


def mlp() -> tuple[nn.Module, Loss]:
    x, y = torch.randn(64, 64), torch.randint(10, (64,))
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    return model, lambda m: nn.functional.cross_entropy(m(x), y)


def cnn() -> tuple[nn.Module, Loss]:
    x, y = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(((3, 32), (32, 64), (64, 128), (128, 256))):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i in (1, 2) else []
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256), nn.Linear(256, 10)]
    return nn.Sequential(*layers, *head), lambda m: nn.functional.cross_entropy(m(x), y)


def gpt() -> tuple[nn.Module, Loss]:
    tokens = torch.randint(256, (32, 64))
    model = ByteTransformer(width=128, layers=4)
    return model, lambda m: nn.functional.cross_entropy(m(tokens).flatten(0, 1), tokens.flatten())


def plain(model: nn.Module, loss: Loss) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return _step(model, loss, optimizer)


def ours(grouping: Grouping) -> Callable[[nn.Module, Loss], Callable[[], None]]:
    def make(model: nn.Module, loss: Loss) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        Engine(
            model,
            optimizer,
            grouping=grouping,
            weighting=clip(1.0),
            noise=gaussian(),
            noise_multiplier=0.0,
            loss_reduction="mean",
            divisor=None,
            ledger=Ledger("prv", None),
            generators=(torch.Generator(), torch.Generator()),
        )
        return _step(model, loss, optimizer)

    return make


def opacus_hooks(model: nn.Module, loss: Loss) -> Callable[[], None]:
    wrapped = GradSampleModule(model, strict=False)
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=1,
    )
    return _step(wrapped, loss, optimizer)


def _step(model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()

    return step


MODELS = {"MLP (64)": mlp, "CNN (128)": cnn, "GPT d=128 (32)": gpt}
WAYS = {
    "plain": plain,
    "dpclip b=1": ours(per_sample()),
    "dpclip b=4": ours(micro_batches(4)),
    "dpclip b=16": ours(micro_batches(16)),
    "dpclip 2 cores": ours(per_core(2)),
    "Opacus hooks": opacus_hooks,
}


def ratios(build: Callable[[], tuple[nn.Module, Loss]], rounds: int) -> dict[str, list[float]]:
    """Returns [rounds] ratios to the plain step for each way."""
    model, loss = build()
    steps = {name: make(copy.deepcopy(model), loss) for name, make in WAYS.items()}
    for step in steps.values():
        step()
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        spent = {}
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            spent[name] = time.perf_counter() - started
        for name in steps:
            found[name].append(spent[name] / spent["plain"])
    return found


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    print(f"load {os.getloadavg()[0]:.2f}, {given.threads} thread(s), torch {torch.__version__}\n")
    lines = []
    for label, build in MODELS.items():
        found = ratios(build, given.rounds)
        cells = [
            f"{statistics.median(v):.2f} ({min(v):.2f}-{max(v):.2f})"
            for name, v in found.items()
            if name != "plain"
        ]
        lines.append([label, *cells])
    print(tabulate(lines, headers=["model (batch)", *list(WAYS)[1:]], tablefmt="github"))


if __name__ == "__main__":
    main()
