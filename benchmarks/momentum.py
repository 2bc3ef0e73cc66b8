"""Tasks trained by SGD with momentum, which Grad Queue is compared with.

    DPCLIP_DATA=/path/to/data dpclip audit --task benchmarks.momentum:reuters --batch-size 256 \
        --grouping none,core:1,cluster:64:per --weighting scarcity:3 --search --seeds 5

`reuters` reads $DPCLIP_DATA/reuters. Every arm searches the same learning rates: on unrelated
gradients Grad Queue makes updates more than twice as long, which a larger rate does as well.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from torch import nn
from torch.optim import SGD

from audits.tasks import Task
from audits.tasks import reuters as documents


def reuters() -> Task:
    """Returns the task reuters (eight topics) with SGD, momentum .9."""
    if "DPCLIP_DATA" not in os.environ:
        raise ValueError("DPCLIP_DATA is not set: expected the folder that holds reuters/.")
    made = documents.task(Path(os.environ["DPCLIP_DATA"]) / "reuters", {})
    rates = (0.05, 0.2, 0.8, 3.2)
    return dataclasses.replace(made, optimizer=_sgd, lr=0.2, lrs=rates, epochs=8)


def _sgd(parameters: Iterable[nn.Parameter], lr: float) -> SGD:
    return SGD(parameters, lr=lr, momentum=0.9)
