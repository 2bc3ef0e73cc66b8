"""Ways to train shadow models: the models are the same, to rounding; only the time differs."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audits.intervals import check_count
from audits.shadow.job import Job, train
from audits.shadow.stack import Randomness, train_stacked
from audits.shadow.trying import attempt

_PARTS = 4  # of each process's share, so that none waits long for the last one


class Signals(NamedTuple):
    """What was read off the models [M, n + k], and a sentence on how they were trained."""

    phi: NDArray[np.float64]
    way: str


Way = Callable[[Job], Signals]
"""How the models of a job are trained and scored."""


def one_by_one() -> Way:
    """A plain loop over the models."""
    return lambda job: Signals(_loop(job, range(len(job.members))), "one by one")


def processes(workers: int = 2) -> Way:
    """A loop in each of several processes, one thread each.

    They are spawned: a script that calls this does so under `if __name__ == "__main__"`.

    Raises:
        ValueError: `workers` is not at least 1; when called, the job cannot be sent to a process.
    """
    count = check_count("workers", workers, 1)

    def run(job: Job) -> Signals:
        if (why := _unsendable(job)) is not None:
            raise ValueError(
                f"The recipe or the records cannot be sent to another process ({why}); expected "
                "functions of a module, no lambdas. Or train one_by_one()."
            )
        models = len(job.members)
        parts = np.array_split(np.arange(models), min(models, count * _PARTS))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, mp_context=context, initializer=_alone) as pool:
            phi = list(pool.map(_loop, [job] * len(parts), [part.tolist() for part in parts]))
        return Signals(np.concatenate(phi), f"in {count} process(es)")

    return run


def stacked(at_once: int = 64, randomness: Randomness = "error") -> Way:
    """All models of a chunk as one, with their parameters stacked.

    Memory grows with the models at once. There is no comparison with a loop, as in `automatic`.

    Args:
        at_once: Models in a chunk.
        randomness: "different" lets models draw random numbers (dropout), others than one by one.

    Raises:
        ValueError: `at_once` is not at least 1; when called, as in `train_stacked`.
        RuntimeError: When called, vmap cannot run the model.
    """
    size = check_count("at_once", at_once, 1)

    def run(job: Job) -> Signals:
        models = range(len(job.members))
        phi = [
            job.signals(number, model)
            for start in models[::size]
            for number, model in _chunk(job, models[start : start + size], randomness)
        ]
        return Signals(np.stack(phi), f"stacked, {min(size, len(models))} at once")

    return run


def automatic(workers: int = 2, at_once: int = 64) -> Way:
    """Stacked where trying shows that it works, else in processes, else one by one.

    The signals say which way was taken, and why.

    Args:
        workers: As in `processes`.
        at_once: As in `stacked`.
    """
    check_count("workers", workers, 1)
    check_count("at_once", at_once, 1)

    def run(job: Job) -> Signals:
        tried = attempt(job)
        if tried.randomness is not None:
            found = stacked(at_once, tried.randomness)(job)
            return Signals(found.phi, f"{found.way}: {tried.why}")
        why = f"not stacked: {tried.why}"
        if (unsendable := _unsendable(job)) is not None:
            why = f"{why}; not in processes: {unsendable}"
            found = one_by_one()(job)
        else:
            found = processes(workers)(job)
        return Signals(found.phi, f"{found.way} ({why})")

    return run


def _chunk(
    job: Job, numbers: Sequence[int], randomness: Randomness
) -> list[tuple[int, torch.nn.Module]]:
    return list(zip(numbers, train_stacked(job, numbers, randomness), strict=True))


def _loop(job: Job, numbers: Sequence[int]) -> NDArray[np.float64]:
    """Returns the signals [len(numbers), n + k] of models trained one by one."""
    return np.stack([job.signals(number, train(job, number)) for number in numbers])


def _unsendable(job: Job) -> str | None:
    """Returns why a job cannot be pickled, or None."""
    try:
        pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return str(error)
    return None


def _alone() -> None:
    """Prepares a worker: processes with several threads each would be in each other's way."""
    torch.set_num_threads(1)
