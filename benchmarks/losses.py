"""Whether training goes the same way whatever dpclip's plan is.

    python -m benchmarks.losses --models gpt,lstm --groups 1 --steps 200

Trains each model under each plan and under the obvious loop over groups, from the same weights on
the same batches, and compares the losses step by step. A cell is the largest relative difference
from the loop; the loop's own row has its first and last loss. Exits with 1 if any difference is
above 1e-3: more than rounding explains. That holds for a small learning rate only: with 0.1 the
losses of the ViT and of the MobileNet differ by more within 100 steps if the obvious loop itself
runs in float64 rather than float32; with 0.01 they differ by 1e-5.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from tqdm import tqdm

from benchmarks.models import Workload
from benchmarks.options import add_groups, parser, workload_of
from benchmarks.table import Cell, markdown, refused
from benchmarks.ways import SHARINGS, Plan, Refusal, Setup, Sharing, Way, attempt, engine, loop
from benchmarks.ways.group_loop import median_norm

TOLERANCE = 1e-3
PLANS = (
    Plan("fast", measure=True),
    Plan("fast", measure=False),
    Plan("low", measure=True),
    Plan("low", measure=False),
    Plan(loop=True),
)
_BATCHES = 4  # that come again and again, so that there is something to learn


class Training(NamedTuple):
    """How long and how fast to train."""

    steps: int = 200
    lr: float = 0.01


class Comparison(NamedTuple):
    """The loop's losses, and the largest relative difference from them of each plan."""

    expected: list[float]
    differences: dict[str, float | Refusal]

    @property
    def agrees(self) -> bool:
        """Whether every plan trained, and to the same losses."""
        found = self.differences.values()
        return all(not isinstance(it, Refusal) and it <= TOLERANCE for it in found)

    def cells(self) -> list[Cell]:
        """Returns a column of a table: the loop, then each plan."""
        first, last = self.expected[0], self.expected[-1]
        return [Cell(f"{first:.4g} to {last:.4g}"), *map(_cell, self.differences.values())]


def compare(workload: Workload, sharing: Sharing, training: Training) -> Comparison:
    """Returns how far the losses under each plan are from the loop's.

    Args:
        workload: the model, which is left as it is, and its data.
        sharing: which samples share a gradient.
        training: steps and learning rate.
    """
    expected = train(workload, loop(sharing), training)

    def distance(plan: Plan) -> float:
        return difference(train(workload, engine(sharing, plan), training), expected)

    return Comparison(expected, {plan.label: attempt(partial(distance, plan)) for plan in PLANS})


def train(workload: Workload, way: Way, training: Training) -> list[float]:
    """Returns the loss before each step; C is the median norm of the first batch's groups."""
    batches = [workload.make_batch(seed) for seed in range(_BATCHES)]
    model = copy.deepcopy(workload.model)
    bound = median_norm(model, workload.losses, batches[0], way.sharing)
    step = way.build(Setup(model, workload.losses, batches[0], bound, training.lr))
    numbers = range(training.steps)
    shown = tqdm(numbers, desc=way.label, leave=False, mininterval=1, file=sys.stderr)
    return [float(step.run(batches[number % _BATCHES])) for number in shown]


def difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Returns the largest relative difference of two lists of losses; inf where one is NaN."""
    each = [abs(a / b - 1) for a, b in zip(found, expected, strict=True)]
    return max(math.inf if math.isnan(it) else it for it in each)


def _cell(found: float | Refusal) -> Cell:
    if isinstance(found, Refusal):
        return refused(found)
    note = None if found <= TOLERANCE else f"Differs by more than {TOLERANCE:g}."
    return Cell(f"{found:.1e}", note)


def main(words: list[str] | None = None) -> int:
    """Prints a Markdown table and returns the exit code.

    Args:
        words: of the command line; the process' own by default.
    """
    made = parser(__doc__)
    add_groups(made)
    made.add_argument("--steps", type=int, default=200, help="(default: %(default)s)")
    made.add_argument("--lr", type=float, default=0.01, help="of SGD (default: %(default)s)")
    given = made.parse_args(words)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    sharings = [SHARINGS[name] for name in given.groups]
    columns: dict[str, list[Cell]] = {}
    agree = True
    for name in given.models:
        workload = workload_of(name, given.reduced, given.device)
        columns[name] = []
        for sharing in sharings:
            if isinstance(workload, Refusal):
                columns[name] += [refused(workload)] * (1 + len(PLANS))
                continue
            found = compare(workload, sharing, Training(given.steps, given.lr))
            columns[name] += found.cells()
            agree &= found.agrees
    labels = [
        label
        for it in sharings
        for label in (f"loop {it.label}", *(f"dpclip {it.label}, {p.label}" for p in PLANS))
    ]
    print(markdown("plan", labels, columns))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
