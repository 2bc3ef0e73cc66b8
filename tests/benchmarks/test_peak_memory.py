"""Peak memory of steps."""

from __future__ import annotations

import pytest

from benchmarks.peak_memory import Job, Peak, cells, measure, peak
from benchmarks.ways import Plan, Refusal


def job(model: str, way: str) -> Job:
    return Job(model, way, Plan(), True, 1, "cpu", "allocated")


def test_the_same_every_time():
    first = measure(job("mlp", "plain"))
    assert isinstance(first, Peak)
    assert first == measure(job("mlp", "plain"))


def test_gradients_of_samples_need_more():
    plain, hooks = (measure(job("mlp", way)) for way in ("plain", "opacus-hooks"))
    parameters = 4 * 1066
    assert hooks.steady - plain.steady > 10 * parameters


@pytest.mark.slow
def test_a_refusal_comes_out_of_the_process():
    found = peak(job("gpt-tied", "opacus-ghost"))
    assert found == Refusal(
        "NotImplementedError: Parameter tying is not supported with Ghost Clipping"
    )


def test_cells():
    mib = 2**20
    found = {
        "plain": Peak(2 * mib, 2 * mib),
        "one": Peak(3 * mib, 3 * mib),
        "two": Peak(8 * mib, 3 * mib),
        "three": Refusal("no"),
    }
    texts = [cell.text for cell in cells(found)]
    assert texts == ["2 MiB", "1.50", "1.50 (first 4.00)", "-"]
