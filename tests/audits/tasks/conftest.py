"""Real data by path, for tests that are skipped without it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Returns a folder of the data sets that DPCLIP_DATA names, or skips.

    `DPCLIP_DATA=~/data pytest tests/audits/tasks` runs what needs ~/data/reuters (Reuters-21578),
    ~/data/cifar10_jpg (CIFAR-10 as images), ~/data/multi30k_en_de (Multi30k, task 1, raw),
    ~/data/librispeech (with manifest.tsv) and ~/data/fsdd (spoken digits).
    """

    def find(name: str) -> Path:
        where = os.environ.get("DPCLIP_DATA")
        if where is None:
            pytest.skip("DPCLIP_DATA names no folder of data sets")
        if not (Path(where) / name).is_dir():
            pytest.skip(f"{where} has no {name}")
        return Path(where) / name

    return find
