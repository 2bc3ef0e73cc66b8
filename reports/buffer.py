"""Points of a run that is at work, sent to MLflow in batches."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from reports.address import brief
from reports.experiment import Experiment
from reports.run_content import metric, out_of_order
from reports.tracking import CHUNK

if TYPE_CHECKING:
    from mlflow.entities import Metric

SIZE = 100  # points per request: one by one, each takes thirty times as long
SECONDS = 2.0  # so that somebody who looks on sees the curve grow
PAUSE = 30.0  # seconds for which a server that took nothing is left alone; each time twice as long
LONGEST = 600.0


class Buffer:
    """Points on their way to a run.

    They are sent when there are `size` of them, or at the first point after `seconds`. What is
    not sent yet is lost with the process: `buffered` sees to it that an exception does not lose it.
    A server that took nothing is left alone for a while, so that it does not hold up a training.
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
        self._pause = 0.0

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
        since = self._clock() - self._sent
        due = len(self._held) >= self._size or since >= self._seconds
        if due and since >= self._pause:
            self.flush()

    def flush(self) -> None:
        """Sends what is held; what a server does not take is kept for the next time."""
        taken = False
        try:
            while self._held:
                with brief():
                    self._client.log_batch(self._run_id, metrics=self._held[:CHUNK])
                del self._held[:CHUNK]
            taken = True
        finally:
            self._sent = self._clock()
            self._pause = 0.0 if taken else min(max(2 * self._pause, PAUSE), LONGEST)


@contextmanager
def buffered(experiment: Experiment, run_id: str) -> Iterator[Buffer]:
    """Yields a buffer and sends what is left in it, also when an exception ends the run.

    That exception goes on even if the server does not take what is left.
    """
    from mlflow.exceptions import MlflowException

    buffer = Buffer(experiment, run_id)
    try:
        yield buffer
    except BaseException:
        with suppress(MlflowException):
            buffer.flush()
        raise
    buffer.flush()
