"""Step times by a clock that the steps themselves move."""

from __future__ import annotations

import time

import pytest

from benchmarks.machine import clock_of
from benchmarks.models import MODELS
from benchmarks.step_time import Timing, main, measure
from benchmarks.ways import SHARINGS, Plan, Refusal, Setup, Step, Way, ways


class Clock:
    """Seconds that pass only when a step takes them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def way(self, label: str, seconds: float) -> Way:
        def build(setup: Setup) -> Step:
            inner = ways(Plan())["plain"].build(setup)

            def run(batch):
                self.now += seconds
                return inner.run(batch)

            return Step(inner.model, run)

        return Way(label, SHARINGS["B"], build)


def test_ratios_and_rounds():
    clock = Clock()
    chosen = {"plain": clock.way("plain", 1.0), "fast": clock.way("fast", 1.5)}
    chosen["slow"] = clock.way("slow", 20.0)
    found = measure(MODELS["mlp"].reduced(), chosen, rounds=10, clock=clock)
    assert {name: it.seconds for name, it in found.items()} == pytest.approx(
        {"plain": 1.0, "fast": 1.5, "slow": 20.0}
    )
    assert {name: len(it.ratios) for name, it in found.items()} == {
        "plain": 10,
        "fast": 10,
        "slow": 5,
    }
    assert found["fast"].ratios == pytest.approx([1.5] * 10)


def test_a_way_that_cannot_is_left_out():
    def build(setup: Setup) -> Step:
        raise NotImplementedError("no")

    clock = Clock()
    chosen = {"plain": clock.way("plain", 1.0), "never": Way("never", SHARINGS["1"], build)}
    found = measure(MODELS["mlp"].reduced(), chosen, rounds=2, clock=clock)
    assert found["never"] == Refusal("NotImplementedError: no")


def test_a_wrong_way_is_marked():
    clock = Clock()
    right = clock.way("right", 1.0)

    def build(setup: Setup) -> Step:
        inner = right.build(setup)

        def run(batch):
            loss = inner.run(batch)
            for p in inner.model.parameters():
                p.grad *= 0.5
            return loss

        return Step(inner.model, run)

    chosen = {"plain": right, "half": Way("half", SHARINGS["B"], build)}
    found = measure(MODELS["mlp"].reduced(), chosen, rounds=2, clock=clock)
    assert "off by 0.5" in found["half"].note
    assert found["plain"].note is None


def test_cells_have_the_median_and_the_quartiles():
    assert Timing(1.0, [1.0, 2.0, 3.0, 4.0, 5.0], None).cell().text == "3.00 (2.00-4.00)"
    assert Timing(1.0, [2.0], "Wrong.").cell() == ("2.00", "Wrong.")


def test_cpu_time_for_one_thread_only():
    assert clock_of("cpu", 1) is time.process_time
    assert clock_of("cpu", 2) is time.perf_counter


def test_command_line(capsys):
    main(["--reduced", "--models", "mlp,lstm", "--ways", "dpclip-4,fastdp", "--rounds", "2"])
    printed = capsys.readouterr().out
    assert printed.startswith("load ")
    assert "| way        | mlp" in printed
    assert "| dpclip b=4 |" in printed
