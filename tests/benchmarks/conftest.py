"""What holds for the tests of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """Skips the models whose optional package is not there."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if str(params.get("model")).startswith("conformer"):
        pytest.importorskip("torchaudio", reason="needs the optional extra speech")


@pytest.fixture
def double() -> Iterator[None]:
    """Everything that is built in the test is float64: models and random data."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
