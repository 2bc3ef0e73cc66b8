"""Step time of every way to clip, as a ratio to a plain training step.

    python -m benchmarks.step_time --models gpt,cnn --ways dpclip-1,opacus-hooks

All ways of a model run in one process, interleaved, each on its own copy. A cell is the median,
and in brackets the quartiles, over rounds of the ratio to the plain step of the same round. C is
the median norm of the groups, so that half of them are clipped; the learning rate is 0. A busy
machine makes every ratio wrong, so its load is printed.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from tqdm import tqdm

from benchmarks.machine import Clock, clock_of, described
from benchmarks.models import Batch, Workload
from benchmarks.options import add_ways, chosen_ways, parser, plan_of, workload_of
from benchmarks.table import Cell, markdown, refused
from benchmarks.ways import PLAIN, Refusal, Started, Way, reference, start

_LEAST_SECONDS = 0.02  # shorter steps are repeated, as a training run repeats them
_SLOW = 5.0  # ways that take longer than so many plain steps take part in fewer rounds
_FEWEST = 5  # but in so many of them


class Timing(NamedTuple):
    """What was measured of one way.

    Attributes:
        seconds: of one step, median over rounds.
        ratios: to the plain step of the same round.
        note: what to tell readers about the result, if anything.
    """

    seconds: float
    ratios: list[float]
    note: str | None

    def cell(self) -> Cell:
        """Returns the median and the quartiles."""
        if len(self.ratios) == 1:
            return Cell(f"{self.ratios[0]:.2f}", self.note)
        low, median, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return Cell(f"{median:.2f} ({low:.2f}-{high:.2f})", self.note)


class _Runner(NamedTuple):
    """A way that is being measured.

    Attributes:
        run: takes one step.
        repeats: steps for each measurement.
        every: it takes part in every so many rounds.
    """

    run: Callable[[], object]
    repeats: int
    every: int

    def seconds(self, clock: Clock) -> float:
        begun = clock()
        for _ in range(self.repeats):
            self.run()
        return (clock() - begun) / self.repeats


def measure(
    workload: Workload, chosen: Mapping[str, Way], rounds: int, clock: Clock, label: str = ""
) -> dict[str, Timing | Refusal]:
    """Returns the timing of each way, or why it has none.

    Args:
        workload: the model and its data.
        chosen: name -> way; the plain step must be among them.
        rounds: in which every way that is not slow takes part.
        clock: in seconds.
        label: what the progress bar says.
    """
    batch = workload.make_batch(0)
    started = _start(workload, batch, chosen)
    running = {name: it for name, it in started.items() if isinstance(it, Started)}
    runners = _runners(running, batch, rounds, clock)
    spent: dict[str, list[float]] = {name: [] for name in runners}
    ratios: dict[str, list[float]] = {name: [] for name in runners}
    order = random.Random(0)
    gc.disable()
    try:
        for number in tqdm(range(rounds), desc=label, leave=False, mininterval=1, file=sys.stderr):
            gc.collect()
            now = [name for name, runner in runners.items() if number % runner.every == 0]
            order.shuffle(now)
            took = {name: runners[name].seconds(clock) for name in now}
            for name, seconds in took.items():
                spent[name].append(seconds)
                ratios[name].append(seconds / took[PLAIN])
    finally:
        gc.enable()
    return {
        name: it
        if isinstance(it, Refusal)
        else Timing(statistics.median(spent[name]), ratios[name], it.note)
        for name, it in started.items()
    }


def _start(
    workload: Workload, batch: Batch, chosen: Mapping[str, Way]
) -> dict[str, Started | Refusal]:
    sharings = {way.sharing.label: way.sharing for way in chosen.values()}
    known = {label: reference(workload, batch, it) for label, it in sharings.items()}
    return {
        name: start(way, workload, batch, known[way.sharing.label]) for name, way in chosen.items()
    }


def _runners(
    running: Mapping[str, Started], batch: Batch, rounds: int, clock: Clock
) -> dict[str, _Runner]:
    """Returns the ways with numbers of steps that fit their duration."""
    once = {}
    for name, started in running.items():
        runner = _Runner(partial(started.step.run, batch), repeats=1, every=1)
        once[name] = runner, max(runner.seconds(clock), 1e-6)
    plain = once[PLAIN][1]
    return {
        name: runner._replace(
            repeats=math.ceil(_LEAST_SECONDS / seconds),
            every=max(1, min(math.ceil(seconds / plain / _SLOW), rounds // _FEWEST)),
        )
        for name, (runner, seconds) in once.items()
    }


def main(words: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        words: of the command line; the process' own by default.
    """
    made = parser(__doc__)
    add_ways(made)
    made.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    given = made.parse_args(words)
    warnings.filterwarnings("ignore")  # Opacus' and its hooks', once for each way
    torch.set_num_threads(given.threads)
    chosen, clock = chosen_ways(given), clock_of(given.device, given.threads)
    print(described(given.device, given.threads), flush=True)
    print(f"dpclip's plan: {plan_of(given).label}")
    columns: dict[str, list[Cell]] = {}
    for name in given.models:
        workload = workload_of(name, given.reduced, given.device)
        if isinstance(workload, Refusal):
            columns[name] = [refused(workload)] * len(chosen)
            continue
        found = measure(workload, chosen, given.rounds, clock, name)
        columns[name] = [_cell(way, it) for way, it in found.items()]
    print(f"{described(given.device, given.threads)} at the end\n")
    print(markdown("way", [way.label for way in chosen.values()], columns))


def _cell(name: str, found: Timing | Refusal) -> Cell:
    if isinstance(found, Refusal):
        return refused(found)
    if name != PLAIN:
        return found.cell()
    milliseconds = found.seconds * 1e3
    return Cell(f"{milliseconds:.{0 if milliseconds >= 100 else 2}f} ms")


if __name__ == "__main__":
    main()
