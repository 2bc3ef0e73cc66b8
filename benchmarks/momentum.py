"""Tasks that Grad Queue and paced batches are compared with plain training on.

    DPCLIP_DATA=/path/to/data dpclip audit --task benchmarks.momentum:reuters --batch_size 256 \
        --grouping none,core:1,cluster:64:per --weighting scarcity:3 --search true --seeds 5 \
        --store runs/momentum/reuters-256
    python -m benchmarks.paired runs/momentum/reuters-256

`reuters` (read from $DPCLIP_DATA/reuters) and `digits` are trained by SGD with momentum, `prose` by
Adam. Every arm searches the same learning rates: on unrelated gradients Grad Queue makes updates
more than twice as long, which a larger rate does as well, so neighbours in a grid are a factor of
two apart.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import nn
from torch.optim import SGD
from torch.utils.data import TensorDataset

from audits.tasks import Task
from dpclip.cli.tasks import task_of

_PROSE = 1500  # records of 64 bytes, a third of what the task text has


@cache  # every run of a process asks for it
def reuters() -> Task:
    """Returns the task reuters (eight topics) with SGD, momentum .9.

    Raises:
        ValueError: DPCLIP_DATA is not set, or there is nothing to read.
    """
    if "DPCLIP_DATA" not in os.environ:
        raise ValueError("DPCLIP_DATA is not set: expected the folder that holds reuters/.")
    made = _own("reuters", data=str(Path(os.environ["DPCLIP_DATA"]) / "reuters"))
    rates = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    return dataclasses.replace(made, optimizer=_sgd, lr=0.2, lrs=rates, epochs=8)


@cache
def digits() -> Task:
    """Returns the task digits, whose optimizer is SGD with momentum .9, with a finer grid."""
    rates = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
    return dataclasses.replace(_own("digits"), lrs=rates)


@cache
def prose() -> Task:
    """Returns the task text with a third of its records and secrets of four digits.

    Its rates are larger than the task's own, since there are fewer updates.
    """
    made = _own("text")
    assert isinstance(made.train, TensorDataset)
    train = TensorDataset(*(part[:_PROSE] for part in made.train.tensors))
    return dataclasses.replace(
        made, name="prose", train=train, epochs=4, lr=8e-3, lrs=(4e-3, 8e-3, 1.6e-2, 3.2e-2)
    )


def _own(name: str, data: str | None = None) -> Task:
    return task_of(
        {
            "task": name,
            "data": data,
            "families": None,
            "batch_size": None,
            "epochs": None,
            "references": 1000,
            "secret": "my pin is {}{}{}{}",
            "alphabet": "0123456789",
        }
    )


def _sgd(parameters: Iterable[nn.Parameter], lr: float) -> SGD:
    return SGD(parameters, lr=lr, momentum=0.9)
