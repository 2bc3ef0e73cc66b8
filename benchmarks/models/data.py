"""Random batches; nothing that is measured depends on what the data say."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.models.workload import Batch, generator


def labelled(shape: tuple[int, ...], classes: int) -> Callable[[int], Batch]:
    """Returns seed -> (noise [B, ...], classes [B]).

    Args:
        shape: of the inputs, the batch first.
        classes: K.
    """

    def make_batch(seed: int) -> Batch:
        draws = generator(seed)
        x = torch.randn(shape, generator=draws)
        return Batch(x, torch.randint(classes, shape[:1], generator=draws))

    return make_batch


def tokens(batch: int, length: int, vocabulary: int, tags: int) -> Callable[[int], Batch]:
    """Returns seed -> (tokens [B, T] of a vocabulary, targets [B, T] below `tags`)."""

    def make_batch(seed: int) -> Batch:
        draws = generator(seed)
        x = torch.randint(vocabulary, (batch, length), generator=draws)
        return Batch(x, torch.randint(tags, (batch, length), generator=draws))

    return make_batch
