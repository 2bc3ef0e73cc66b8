"""Named random streams: one seed, as many independent generators as there are purposes."""

import hashlib
import operator

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on the seed and on what it is for.

    Coins drawn from `stream(0, "coins")` say nothing about secrets drawn from
    `stream(0, "secrets")` or about a data loader seeded with 0, although all share one seed.

    Args:
        seed: A non-negative integer, the run's seed.
        name: The purpose, for example `"secrets"`.

    Raises:
        ValueError: If the seed is negative or the name is empty.
    """
    entropy = operator.index(seed)
    if entropy < 0:
        raise ValueError(f"found seed {entropy}; expected a non-negative integer")
    if not name:
        raise ValueError("found an empty stream name; name what the numbers are for")
    # The name goes through a hash because a SeedSequence key is made of integers; eight words
    # cannot meet the one-word keys that SeedSequence.spawn hands out.
    key = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=">u4")
    words = tuple(int(word) for word in key)
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=words))
