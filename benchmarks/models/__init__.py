"""The models that every way to clip is measured on, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import NamedTuple

from benchmarks.models.cnn import cnn
from benchmarks.models.gpt import gpt
from benchmarks.models.mlp import mlp
from benchmarks.models.mobilenet import mobilenet
from benchmarks.models.recurrent import lstm, tagger
from benchmarks.models.vit import vit
from benchmarks.models.workload import Batch, Losses, Workload

__all__ = ["MODELS", "Batch", "Losses", "Sizes", "Workload"]


class Sizes(NamedTuple):
    """One model at the size that is measured, and so small that a step takes milliseconds."""

    full: Callable[[], Workload]
    reduced: Callable[[], Workload]


def _conformers(batch_first: bool) -> Sizes:
    def full() -> Workload:
        return _conformer(batch_first=batch_first)

    def reduced() -> Workload:
        return _conformer(8, 12, 2, 2, 3, shape=(_B, 15, 4), batch_first=batch_first)

    return Sizes(full, reduced)


def _conformer(*sizes: int, **options: object) -> Workload:
    # Imported late: torchaudio comes with the optional extra "speech".
    made: Workload = import_module("benchmarks.models.conformer").conformer(*sizes, **options)
    return made


# 18 samples are enough for groups of 16 and 8 cores, and leave ragged groups everywhere.
_B = 18
_gpt = partial(gpt, vocabulary=17, length=7, width=8, layers=2, heads=2, batch=_B)

MODELS: dict[str, Sizes] = {
    "mlp": Sizes(mlp, partial(mlp, width=12, batch=_B)),
    "cnn": Sizes(cnn, partial(cnn, (4, 6, 8, 10), size=8, batch=_B, groups=2)),
    "gpt": Sizes(gpt, _gpt),
    "gpt-tied": Sizes(partial(gpt, tied=True), partial(_gpt, tied=True)),
    "conformer": _conformers(batch_first=False),
    "conformer-batch-first": _conformers(batch_first=True),
    "lstm": Sizes(lstm, partial(lstm, 17, 6, 5, batch=_B)),
    "vit": Sizes(vit, partial(vit, 8, 2, 2, size=8, batch=_B)),
    "mobilenet": Sizes(mobilenet, partial(mobilenet, (4, 6, 8), size=8, batch=_B)),
    "tagger": Sizes(tagger, partial(tagger, 17, 6, 5, tags=4, batch=_B)),
}
