"""Points of a run that is at work, sent to MLflow in batches."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reports.experiment import Experiment
from reports.run_content import metric, out_of_order
from reports.tracking import CHUNK

if TYPE_CHECKING:
    from mlflow.entities import Metric

SIZE = 100  # points per request: one by one, each takes thirty times as long
SECONDS = 2.0  # so that somebody who looks on sees the curve grow


class Buffer:
    """Points on their way to a run.

    They are sent when there are `size` of them, or at the first point after `seconds`. What is
    not sent yet is lost with the process: `buffered` sees to it that an exception does not lose it.
    """

    def __init__(
        self,
        experiment: Experiment,
        run_id: str,
        size: int = SIZE,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._run_id = experiment.client, run_id
        self._size, self._seconds, self._clock = size, seconds, clock
        self._held: list[Metric] = []
        self._last: dict[str, int] = {}
        self._sent = clock()

    def log(self, name: str, value: float, step: int) -> None:
        """Takes one point of a series; one that is not finite is left out.

        Raises:
            ValueError: If the step is not behind the last one of the series, or not positive.
        """
        if step <= self._last.get(name, 0):
            raise ValueError(out_of_order(name, step))
        self._last[name] = step
        if math.isfinite(value):
            self._held.append(metric(name, value, step))
        if len(self._held) >= self._size or self._clock() - self._sent >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Sends what is held; what a server does not take is kept for the next time."""
        self._sent = self._clock()
        while self._held:
            self._client.log_batch(self._run_id, metrics=self._held[:CHUNK])
            del self._held[:CHUNK]


@contextmanager
def buffered(experiment: Experiment, run_id: str) -> Iterator[Buffer]:
    """Yields a buffer and sends what is left in it, also when an exception ends the run."""
    buffer = Buffer(experiment, run_id)
    try:
        yield buffer
    finally:
        buffer.flush()
