"""Which recording belongs to which part, before any of them is decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

PARTS = ("train", "validation", "test")
LEAST = 10
"""Recordings to train on, below which nothing is divided."""

_HELD = 500  # recordings at most in each part that is held out


def parted(splits: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the names of train (in a fixed random order), validation and test.

    A split that the data have is kept. Of what is left to train on, a fixed random tenth (500 at
    most) makes each part that is missing.

    Args:
        splits: name of a recording -> train, validation or test; empty where nothing tells.

    Raises:
        ValueError: fewer than ten recordings to train on, or some that say their split beside some
            that don't.
    """
    told = sum(map(bool, splits.values()))
    if told not in (0, len(splits)):
        raise ValueError(
            f"{told} of {len(splits)} recordings say which split they belong to: expected all or "
            "none."
        )
    parts: dict[str, list[str]] = defaultdict(list)
    for name, split in splits.items():
        parts[split or "train"].append(name)
    if (many := len(parts["train"])) < LEAST:
        raise ValueError(
            f"Found {many} recordings to train on, and {len(splits) - many} for validation or "
            f"test: expected at least {LEAST} to train on."
        )
    order = np.random.default_rng(0).permutation(many).tolist()
    rest = [parts["train"][i] for i in order]
    held = min(_HELD, many // 10)
    for name in [part for part in PARTS if not parts[part]]:
        parts[name], rest = rest[:held], rest[held:]
    return {**parts, "train": rest}


def check_limit(limit: int | None) -> None:
    """Refuses a limit below 1.

    Raises:
        ValueError: such a limit.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The limit is {limit} training records: expected at least 1.")
