"""Sources of randomness: seeded ones, which make experiments repeatable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpclip.types import Stream


class Seeded:
    """A stream that is the same for the same seed. Who knows the seed knows the noise.

    And 2^32 seeds can be tried: torch's generator on the CPU takes no more than 32 bits of one.
    For experiments that is enough: two streams of a run are equal by chance in one run of 10^9,
    and the noise of any two of a thousand runs with a probability of 10^-4.

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
        """Returns normal numbers like `like`, drawn in float32 at least and rounded.

        Drawn in bfloat16, none would be beyond 3.33 std and their variance 1.5 % too small.
        """
        device, dtype = self._generator.device, torch.promote_types(like.dtype, torch.float32)
        drawn = torch.normal(
            0.0, std, like.shape, generator=self._generator, dtype=dtype, device=device
        )
        return drawn.to(like)

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


def seeded(seed: int | None, device: torch.device, phase: int = 0) -> Streams:
    """Returns streams that are the same for the same seed; None takes fresh entropy.

    Args:
        seed: any size.
        device: where noise is drawn.
        phase: how often streams were made of this seed before. Two phases of one training must
            not share their noise: the difference of what they release would be without any.
    """
    made = np.random.SeedSequence(seed).spawn(4 * (phase + 1))
    draws, loose, noise, workers = made[4 * phase :]
    return Streams(
        Seeded(draws), Seeded(loose), Seeded(noise, device), int(workers.generate_state(1)[0])
    )
