"""Fillings of a format in part: what each has lost so far, and what each may become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from audits.slots import Layout, LogProbs

__all__ = ["Nodes", "children", "joined", "root", "subtrees", "through"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Prefixes of fillings, or whole ones.

    Attributes:
        losses: -log p of the tokens so far [n].
        depths: How many of the h holes are filled [n].
        tokens: What is in the holes [n, h], 0 where nothing is yet.
    """

    losses: Array
    depths: Integers
    tokens: Integers

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, chosen: NDArray[np.bool_] | Integers) -> Nodes:
        """The chosen nodes, by number or mask."""
        return Nodes(self.losses[chosen], self.depths[chosen], self.tokens[chosen])

    def nearest(self, many: int) -> Integers:
        """The numbers of the nodes that lost least, so many of them or all."""
        if many >= len(self):
            return np.arange(len(self))
        return np.argpartition(self.losses, many)[:many]

    def deepest(self, many: int) -> Integers:
        """The numbers of the nodes with most holes filled, the least loss first among equals."""
        return np.lexsort((self.losses, -self.depths))[:many]

    def ordered(self) -> Nodes:
        """The nodes by increasing loss; equal ones by their tokens."""
        keys = (*self.tokens.T[::-1], self.losses)
        return self.take(np.lexsort(keys))


def root(holes: int) -> Nodes:
    """The one prefix with no hole filled."""
    return Nodes(np.zeros(1), np.zeros(1, np.int64), np.zeros((1, holes), np.int64))


def joined(parts: Sequence[Nodes]) -> Nodes:
    """All nodes of one or more parts."""
    return Nodes(
        np.concatenate([part.losses for part in parts]),
        np.concatenate([part.depths for part in parts]),
        np.concatenate([part.tokens for part in parts]),
    )


def children(layout: Layout, log_probs: LogProbs, nodes: Nodes, batch: int) -> Nodes:
    """What the nodes become when their next hole is filled, in the order of nodes and alphabet.

    Nodes of equal depth are seen by the model together, `batch` at most.
    """
    depths = np.unique(nodes.depths).tolist()
    levels = [nodes.take(nodes.depths == depth) for depth in depths]
    parts = [
        level.take(np.arange(first, min(first + batch, len(level))))
        for level in levels
        for first in range(0, len(level), batch)
    ]
    return joined([_level(layout, log_probs, part) for part in parts])


def through(
    layout: Layout, log_probs: LogProbs, secrets: Integers, batch: int
) -> tuple[Nodes, Array, int]:
    """All nodes beside the secrets' own prefixes, with the secrets; their losses; prefixes seen.

    Args:
        layout: The format.
        log_probs: The model.
        secrets: Whole fillings [n, h] in tokens, at least one.
        batch: Prefixes the model sees together.
    """
    level, owner = root(secrets.shape[1]), np.zeros(len(secrets), np.int64)
    beside: list[Nodes] = []
    seen = 0
    for depth, alphabet in enumerate(layout.alphabets):
        seen += len(level)
        grown = children(layout, log_probs, level, batch)
        chosen = alphabet.cpu().numpy()[None] == secrets[:, depth, None]  # [n, |A|]
        numbers = owner * len(alphabet) + chosen.argmax(1)
        ours, owner = np.unique(numbers, return_inverse=True)
        beside.append(grown.take(np.delete(np.arange(len(grown)), ours)))
        level = grown.take(ours)
    return joined([*beside, level]), level.losses[owner], seen


def subtrees(layout: Layout) -> list[int]:
    """How many fillings a node has below it, by its depth: [|R|, ..., 1]."""
    sizes = [len(alphabet) for alphabet in layout.alphabets]
    return [math.prod(sizes[depth:]) for depth in range(len(sizes) + 1)]


def _level(layout: Layout, log_probs: LogProbs, nodes: Nodes) -> Nodes:
    depth = int(nodes.depths[0])
    filled = torch.from_numpy(nodes.tokens[:, :depth]).to(layout.template.device)
    steps = layout.next_losses(log_probs, filled).cpu().numpy()  # [n, |A|]
    alphabet = layout.alphabets[depth].cpu().numpy()
    tokens = np.repeat(nodes.tokens, len(alphabet), axis=0)
    tokens[:, depth] = np.tile(alphabet, len(nodes))
    losses = (nodes.losses[:, None] + steps).reshape(-1)
    return Nodes(losses, np.full(len(losses), depth + 1, np.int64), tokens)
