"""Running a model once more and leaving no trace: random numbers, buffers, gradients."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def same_numbers(seed: int | None = None) -> Iterator[None]:
    """Puts the global random states (python, numpy, torch) back afterwards.

    Args:
        seed: what the block draws from; None goes on from the states that were found.
    """
    devices: Sequence[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def same_buffers(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Puts every buffer back afterwards; yields what then holds (name -> value) of changed ones."""
    changed: dict[str, Tensor] = {}
    holders = [(name, m, dict(m._buffers)) for name, m in module.named_modules() if m._buffers]
    kept = {
        id(buffer): buffer.detach().clone()
        for _, _, buffers in holders
        for buffer in buffers.values()
        if buffer is not None
    }
    try:
        yield changed
    finally:
        for name, holder, buffers in holders:
            for leaf, buffer in buffers.items():
                now = holder._buffers.get(leaf)
                if buffer is None or (now is buffer and same_values(buffer, kept[id(buffer)])):
                    continue
                if now is not None:
                    changed[f"{name}.{leaf}".lstrip(".")] = now.detach().clone()
                buffer.data.copy_(kept[id(buffer)])  # without a new version: others may keep it
            holder._buffers.clear()
            holder._buffers.update(buffers)


@contextmanager
def gradients_aside(params: Iterable[nn.Parameter]) -> Iterator[None]:
    """Puts `p.grad` aside, so that nothing is added to it."""
    kept = [(param, param.grad) for param in params]
    for param, _ in kept:
        param.grad = None
    try:
        yield
    finally:
        for param, grad in kept:
            param.grad = grad


def same_values(a: Tensor, b: Tensor) -> bool:
    """Returns True for tensors alike in shape and in every entry; NaN is like NaN."""
    if a.shape != b.shape:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())
