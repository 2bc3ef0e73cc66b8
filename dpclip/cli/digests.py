"""Digests of what a run is made of, so that a changed one is run again and not read back."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from audits.planted import Planted
from audits.tasks import Task
from canaries import digest

_MOST = 20_000  # records of a part that are read; of a larger one so many spread over it


def made_of(task: Task, planted: Planted | None = None) -> str:
    """Returns a digest of the records of all parts, the model's shapes, canaries and references.

    A loss, an optimizer or a layer without parameters that was changed is not seen; of parts with
    more than 20,000 records, nor are changes to some of them. It is empty where records hold other
    things than numbers and strings: nothing can be said of them.

    Args:
        task: what is trained.
        planted: its training records with canaries, if there are any.
    """
    shapes = [list(p.shape) for p in task.model(0).parameters()]
    parts: list[Any] = [task.train, task.validation, task.test]
    if planted is not None:
        parts += [planted.references[name] for name in sorted(planted.references)]
    digests = [records_digest(part) for part in parts]
    panel = planted.manifest if planted is not None else ""
    return digest((shapes, digests, panel, version("dpclip"))) if all(digests) else ""


def records_digest(records: Any) -> str:
    """Returns a digest of a data set: of its length and its records, 20,000 of them at most.

    It is empty for records that hold other things than numbers and strings.
    """
    many = len(records)
    some = np.unique(np.linspace(0, many - 1, num=min(many, _MOST)).astype(int))
    try:
        return digest((many, [records[int(i)] for i in some]))
    except TypeError:
        return ""
