"""Peak memory of every way to clip, as a ratio to a plain training step.

    python -m benchmarks.peak_memory --models gpt --ways dpclip-1,opacus-hooks --memory low

Each model and way has a process of its own. Counted is what a step needs beyond the parameters
and the batch: activations, gradients, and what a way keeps between steps. A cell is the ratio of
the fourth step; where the first step needed more (trying out rules, say), that follows in
brackets. `--meter resident` asks the operating system instead of torch (see meters.py).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch
from tqdm import tqdm

from benchmarks.meters import RETURN_FREED, Meter, allocated, on_gpu, resident
from benchmarks.options import add_ways, chosen_ways, parser, plan_of, workload_of
from benchmarks.table import Cell, markdown, refused
from benchmarks.ways import PLAIN, Plan, Refusal, Setup, attempt, ways

_METERS: dict[str, Meter] = {"allocated": allocated, "resident": resident}
_STEPS = 4  # in the fourth, Grad Queue's queue is full
_MORE = 1.05  # of the steady step: a first step that needs more than that is worth telling
_MIB = 2**20


class Job(NamedTuple):
    """What one process measures; names travel there, not models."""

    model: str
    way: str
    plan: Plan
    reduced: bool
    threads: int
    device: str
    meter: str


class Peak(NamedTuple):
    """Peak bytes of the first step, and of a later one."""

    first: int
    steady: int


def peak(job: Job) -> Peak | Refusal:
    """Returns what a job needs, measured in a fresh process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        # The second attempt is for a process that was killed, for lack of memory say.
        return attempt(lambda: pool.submit(_attempt, job).result())


def _attempt(job: Job) -> Peak | Refusal:
    return attempt(lambda: measure(job))


def measure(job: Job) -> Peak | Refusal:
    """Returns what a job needs in this process, which nothing else has used before."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job.threads)
    workload = workload_of(job.model, job.reduced, job.device)
    if isinstance(workload, Refusal):
        return workload
    batch = workload.make_batch(0)
    # What C is changes no size.
    bound, features = 1.0, workload.features
    setup = Setup(workload.model, workload.losses, batch, bound, features=features)
    step = ways(job.plan)[job.way].build(setup)
    meter = on_gpu if job.device == "cuda" else _METERS[job.meter]
    first, *_, steady = meter(lambda: step.run(batch), _STEPS)
    return Peak(first, steady)


def cells(found: Mapping[str, Peak | Refusal]) -> list[Cell]:
    """Returns the cells of one model: the plain step's MiB, and ratios to it."""
    plain = found[PLAIN]
    return [_cell(name, it, plain) for name, it in found.items()]


def _cell(name: str, found: Peak | Refusal, plain: Peak | Refusal) -> Cell:
    if isinstance(found, Refusal):
        return refused(found)
    if name == PLAIN or isinstance(plain, Refusal):
        return Cell(f"{found.steady / _MIB:.4g} MiB")
    ratio = f"{found.steady / plain.steady:.2f}"
    if found.first > _MORE * found.steady:
        ratio += f" (first {found.first / plain.steady:.2f})"
    return Cell(ratio)


def main(words: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        words: of the command line; the process' own by default.
    """
    made = parser(__doc__)
    add_ways(made)
    made.add_argument("--meter", choices=list(_METERS), default="allocated")
    given = made.parse_args(words)
    os.environ.update(RETURN_FREED, KINETO_LOG_LEVEL="99")  # inherited by each process
    chosen = chosen_ways(given)
    columns: dict[str, list[Cell]] = {}
    for model in given.models:
        found = {}
        for way in tqdm(chosen, desc=model, leave=False, file=sys.stderr):
            found[way] = peak(
                Job(
                    model=model,
                    way=way,
                    plan=plan_of(given),
                    reduced=given.reduced,
                    threads=given.threads,
                    device=given.device,
                    meter=given.meter,
                )
            )
        columns[model] = cells(found)
    print(f"dpclip's plan: {plan_of(given).label}\n")
    print(markdown("way", [way.label for way in chosen.values()], columns))


if __name__ == "__main__":
    main()
