"""Sources of randomness: seeded ones, which make experiments repeatable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpclip.types import Stream


class Seeded:
    """A stream that is the same for the same seed. Who knows the seed knows the noise.

    Args:
        seed: of this stream alone; streams of different purposes are spawned from one.
        device: where normal numbers are drawn.
    """

    secure = False

    def __init__(self, seed: np.random.SeedSequence, device: torch.device | None = None) -> None:
        start = int(seed.generate_state(1, np.uint64)[0] >> 1)
        self._generator = torch.Generator(device or "cpu").manual_seed(start)

    def uniform(self, count: int) -> Tensor:
        """Returns [count] numbers in [0, 1), float64."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def integers(self, high: int, count: int) -> Tensor:
        """Returns [count] numbers of 0 .. high - 1."""
        return torch.randint(high, (count,), generator=self._generator)

    def order(self, count: int) -> Tensor:
        """Returns [count] a random permutation."""
        return torch.randperm(count, generator=self._generator)

    def normal(self, like: Tensor, std: float) -> Tensor:
        """Returns normal numbers like `like`."""
        device = self._generator.device
        drawn = torch.normal(
            0.0, std, like.shape, generator=self._generator, dtype=like.dtype, device=device
        )
        return drawn.to(like.device)

    def state(self) -> Tensor:
        """Returns [bytes] uint8, the generator's state."""
        return self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continues where `state()` was taken."""
        self._generator.set_state(state)


class Streams(NamedTuple):
    """The sources of randomness of one engine, each for one purpose.

    Attributes:
        draws: of records and slots.
        loose: of slots for batches that did not come from the loader.
        noise: of noise.
        workers: seed of the loader's worker processes.
    """

    draws: Stream
    loose: Stream
    noise: Stream
    workers: int


def seeded(seed: int | None, device: torch.device) -> Streams:
    """Returns streams that are the same for the same seed; None takes fresh entropy.

    Args:
        seed: any size.
        device: where noise is drawn.
    """
    draws, loose, noise, workers = np.random.SeedSequence(seed).spawn(4)
    return Streams(
        Seeded(draws), Seeded(loose), Seeded(noise, device), int(workers.generate_state(1)[0])
    )
