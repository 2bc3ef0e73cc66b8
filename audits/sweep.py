"""Running the cells of a sweep: side by side, each kept when it is done, none run twice."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

Scalar = str | int | float | bool | None
Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run, named by everything that decides its result.

    Attributes:
        label: for the progress bar.
        config: scalars; two cells with equal configs are the same cell.
    """

    label: str
    config: Mapping[str, Scalar]

    @property
    def key(self) -> str:
        """A short hash of the config."""
        text = json.dumps(dict(self.config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """A folder with one file for each finished cell.

    Args:
        directory: made if it is missing.
        task: the store belongs to one task.

    Raises:
        ValueError: the folder cannot be written, or belongs to another task.
    """

    def __init__(self, directory: Path, task: str) -> None:
        self.directory = directory
        self.cells = directory / "cells"
        owner = directory / "task"
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            if not owner.exists():
                _write(owner, task + "\n")
            found = owner.read_text().strip()
            if not os.access(self.cells, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise ValueError(
                f"The store {directory} cannot be written ({error.strerror}). Choose another."
            ) from error
        if found != task:
            raise ValueError(
                f"The store {directory} holds runs of task {found!r}, not {task!r}. Choose another."
            )

    def read(self, cell: Cell) -> Result | None:
        """Returns a finished cell's result, or None; a damaged file is none, and is run again."""
        try:
            content = json.loads(self._path(cell).read_text())
            result = content["result"] if content["config"] == dict(cell.config) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return result if isinstance(result, dict) and "row" in result else None

    def write(self, cell: Cell, result: Result) -> None:
        """Keeps a result; a reader sees all of it or nothing."""
        content = {"config": dict(cell.config), "result": result}
        _write(self._path(cell), json.dumps(content, indent=1))

    def _path(self, cell: Cell) -> Path:
        return self.cells / f"{cell.key}.json"


def run(
    cells: Sequence[Cell],
    work: Callable[[Mapping[str, Scalar]], Result],
    store: Store,
    workers: int,
    done: Callable[[Cell, Result], None],
) -> list[Result]:
    """Returns the results of all cells in order, running those that the store does not hold.

    Args:
        cells: what to run.
        work: config -> result; a picklable function, called in a worker process.
        store: where results are kept as they come.
        workers: processes; 0 runs in this one.
        done: called with every result, kept or new.

    Raises:
        RuntimeError: a cell failed. The others that were running are kept.
    """
    results: dict[str, Result] = {}
    missing: list[Cell] = []
    for cell in cells:
        kept = store.read(cell)
        if kept is None:
            missing.append(cell)
        else:
            results[cell.key] = kept
            done(cell, kept)
    with closing(_each(missing, work, workers)) as finished:
        for cell, result in finished:
            store.write(cell, result)
            results[cell.key] = result
            done(cell, result)
    return [results[cell.key] for cell in cells]


def _each(
    cells: Sequence[Cell], work: Callable[[Mapping[str, Scalar]], Result], workers: int
) -> Generator[tuple[Cell, Result], None, None]:
    if workers == 0 or len(cells) == 0:
        with _one_thread():
            for cell in cells:
                yield cell, _named(cell, lambda c=cell: work(c.config))  # type: ignore[misc]
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_alone)
    pending: dict[Future[Result], Cell] = {}
    failure: Exception | None = None
    try:
        with _interruptions_held():
            pending |= {pool.submit(work, dict(c.config)): c for c in cells}
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                cell = pending.pop(future)
                try:
                    result = _named(cell, future.result)
                except RuntimeError as error:
                    failure = failure or error
                    pending = {f: c for f, c in pending.items() if not f.cancel()}
                    continue
                yield cell, result
        if failure:
            raise failure
    finally:
        # On an interruption nobody waits for cells that have just begun.
        for process in list((pool._processes or {}).values()):
            if pending:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _named(cell: Cell, get: Callable[[], Result]) -> Result:
    try:
        return get()
    except BrokenProcessPool as error:  # breaks all cells at once, whichever was the cause
        raise RuntimeError(
            "A worker process died (killed, or out of memory). Finished runs are kept; the same "
            "command goes on, with fewer --workers if memory was short."
        ) from error
    except Exception as error:
        raise RuntimeError(f"{cell.label}: {error}") from error


@contextmanager
def _interruptions_held() -> Iterator[None]:
    """Keeps Ctrl-C waiting, so that processes begun inside are deaf to it from their first moment.

    A terminal sends it to all of them, and one that is still importing would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It starts with the first process, and unblocks the signal when it does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Runs as a worker does: sums over another number of threads have other last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alone() -> None:
    """Prepares a worker: one thread, and Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
