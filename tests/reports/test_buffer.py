import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from mlflow.exceptions import MlflowException

from reports.buffer import Buffer, buffered
from reports.experiment import Experiment


@dataclass
class Server:
    """Takes batches, and keeps their sizes and points."""

    away: bool = False
    asked: int = 0
    batches: list[int] = field(default_factory=list)
    points: list[tuple[str, int, float]] = field(default_factory=list)

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        assert run_id == "run"
        if self.away:
            self.asked += 1
            raise MlflowException("no answer")
        self.batches.append(len(metrics))
        self.points += [(m.key, m.step, m.value) for m in metrics]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def experiment(server: Server) -> Experiment:
    return Experiment(cast(Any, server), "1", "dpclip-digits")


def test_points_go_by_the_hundred(experiment: Experiment, server: Server) -> None:
    with buffered(experiment, "run") as buffer:
        for step in range(1, 251):
            buffer.log("train/loss", 1 / step, step)
        assert server.batches == [100, 100]
    assert server.batches == [100, 100, 50]
    assert server.points == [("train/loss", step, 1 / step) for step in range(1, 251)]


def test_a_slow_run_sends_a_point_when_two_seconds_are_over(
    experiment: Experiment, server: Server
) -> None:
    buffer = Buffer(experiment, "run", clock=(clock := Clock()))
    for step, clock.now in enumerate((1.9, 2.0, 3.9, 4.0), 1):
        buffer.log("train/loss", 1.0, step)
    assert server.batches == [2, 2]


def test_an_exception_loses_no_point(experiment: Experiment, server: Server) -> None:
    with pytest.raises(KeyboardInterrupt), buffered(experiment, "run") as buffer:
        buffer.log("train/loss", 1.0, 1)
        raise KeyboardInterrupt
    assert server.points == [("train/loss", 1, 1.0)]


def test_what_a_server_does_not_take_is_sent_again(experiment: Experiment, server: Server) -> None:
    buffer = Buffer(experiment, "run", size=1, clock=Clock())
    server.away = True
    with pytest.raises(MlflowException):
        buffer.log("train/loss", 1.0, 1)
    for step in range(2, 2503):
        buffer.log("train/loss", 1.0, step)
    server.away = False
    buffer.flush()
    assert server.batches == [1000, 1000, 502]
    assert [step for _, step, _ in server.points] == list(range(1, 2503))


def test_a_server_that_is_away_is_asked_more_and_more_seldom(
    experiment: Experiment, server: Server
) -> None:
    buffer = Buffer(experiment, "run", size=1, clock=(clock := Clock()))
    server.away = True
    asked = []
    for step in range(1, 241):
        clock.now = float(step)
        with suppress(MlflowException):
            buffer.log("train/loss", 1.0, step)
        if server.asked > len(asked):
            asked.append(step)
    assert asked == [1, 31, 91, 211]
    server.away = False
    clock.now = 451.0
    buffer.log("train/loss", 1.0, 241)
    buffer.log("train/loss", 1.0, 242)  # trusted again
    assert server.batches == [241, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_ended_a_run_is_told_and_not_that_the_server_is_away(
    experiment: Experiment, server: Server, error: type[BaseException]
) -> None:
    server.away = True
    with pytest.raises(error), buffered(experiment, "run") as buffer:
        buffer.log("train/loss", 1.0, 1)
        raise error
    with pytest.raises(MlflowException), buffered(experiment, "run") as buffer:
        buffer.log("train/loss", 1.0, 1)


def test_nothing_to_send_is_no_request(experiment: Experiment, server: Server) -> None:
    with buffered(experiment, "run") as buffer:
        buffer.log("privacy/eps", math.inf, 1)
        buffer.flush()
    assert server.batches == []


@pytest.mark.parametrize("step", [0, 3, 2])
def test_steps_that_draw_a_zigzag_are_refused(experiment: Experiment, step: int) -> None:
    buffer = Buffer(experiment, "run")
    buffer.log("train/loss", 1.0, 3)
    with pytest.raises(ValueError, match=f"has step {step} out of order"):
        buffer.log("train/loss", 1.0, step)
