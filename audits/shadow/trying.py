"""Whether models can be trained stacked, found out by trying."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audits.shadow.job import Job, train
from audits.shadow.stack import Randomness, train_stacked

STEPS = 3  # a batch norm's statistics and a momentum show from the second on
TOLERANCE = 1e-3  # of the distance travelled; rounding is about 1e-6, a mistake about 1
BUFFERS = 1e-4
AGREED = "two models agreed with a loop over them"
DRAWING = " in eval mode; in training they draw random numbers, others than one by one"


class Attempt(NamedTuple):
    """What came of it.

    Attributes:
        randomness: How to stack; None if it cannot be done.
        why: What to say about it.
    """

    randomness: Randomness | None
    why: str


def attempt(job: Job) -> Attempt:
    """Returns whether two models trained stacked for three steps are what a loop makes of them.

    Models that draw random numbers (dropout) are trained for these steps with draws of their own,
    which must work, and are compared in eval mode.
    """
    few = dataclasses.replace(job, members=job.members[:2], steps=STEPS)
    if (found := _trained(few, "error")).models is not None:
        wrong = _difference(few, found.models)
        return Attempt(None if wrong else "error", wrong or AGREED)
    # What works with random numbers, and not without them, draws some.
    if (draws := _trained(few, "different")).models is None:
        return Attempt(None, draws.error)
    calm = dataclasses.replace(few, training=False)
    if (found := _trained(calm, "error")).models is None:
        return Attempt(None, found.error)
    wrong = _difference(calm, found.models)
    return Attempt(None if wrong else "different", wrong or AGREED + DRAWING)


class _Found(NamedTuple):
    """Models, or what is wrong."""

    models: Sequence[nn.Module] | None
    error: str = ""


def _trained(job: Job, randomness: Randomness) -> _Found:
    # vmap loops over the models where it has no rule for an operation, and only warns: that is
    # slower than a plain loop.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            models = train_stacked(job, (0, 1), randomness)
        except (RuntimeError, ValueError, TypeError) as error:
            return _Found(None, str(error).strip().split("\n")[0])
    for warning in said:
        if missing := re.search(r"batching rule for (\S+?)\.? ", str(warning.message)):
            return _Found(None, f"vmap would loop over the models in {missing[1]}")
    return _Found(models)


@torch.no_grad()
def _difference(job: Job, found: Sequence[nn.Module]) -> str | None:
    """Returns how models differ from those of a loop, or None."""
    for number, one in enumerate(found):
        with torch.enable_grad():
            other = train(job, number)
        ours, theirs, start = (_flat(model) for model in (one, other, job.fresh(number)))
        if not theirs.isfinite().all():
            continue  # there is nothing to compare; the signals will be refused
        if not (ours - theirs).norm() <= TOLERANCE * (theirs - start).norm():
            return "stacked models were trained to other weights than one by one"
        for (name, a), (_, b) in zip(one.named_buffers(), other.named_buffers(), strict=True):
            if not torch.allclose(a, b, rtol=BUFFERS, atol=BUFFERS):
                return f"buffer {name} of stacked models is not what it is one by one"
    return None


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.double().flatten() for parameter in model.parameters()])
