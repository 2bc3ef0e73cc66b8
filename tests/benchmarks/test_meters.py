"""Meters of memory, on steps that take a known amount."""

import sys

import pytest
import torch

from benchmarks.meters import allocated, on_gpu, resident

MIB = 2**20


class Step:
    """Keeps 64 MiB from the first call on, and takes 128 MiB for a while in each."""

    def __init__(self, device: str = "cpu") -> None:
        self.kept, self.device = None, device

    def __call__(self) -> None:
        if self.kept is None:
            self.kept = torch.ones(64 * MIB // 4, device=self.device)
        torch.ones(128 * MIB // 4, device=self.device)


def test_allocated_is_exact():
    assert allocated(Step(), 2) == [192 * MIB, 192 * MIB]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_agrees():
    torch.ones(8).sum()  # what torch loads when it is first used
    assert resident(Step(), 2) == pytest.approx(allocated(Step(), 2), rel=0.05)


def test_a_first_step_that_needs_more():
    sizes = iter([3, 1])
    peaks = allocated(lambda: torch.ones(next(sizes) * MIB), 2)
    assert peaks == [12 * MIB, 4 * MIB]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_gpu():
    assert on_gpu(Step("cuda"), 2) == [192 * MIB, 192 * MIB]
