"""Whether audits' bounds hold, and how close they come, for mechanisms of known epsilon.

    python -m benchmarks.audit_coverage --audits 2000

Each audit has 1,000 canaries, each inserted by a fair coin, and an attack whose threshold or number
of guesses was fixed before. A bound fails when it is above the true epsilon; it may in 5 % of the
audits. Exits with 1 if one fails in more: if Wilson's 99 % interval of the rate lies above 5 %.
The last rows are what goes wrong when the threshold or the number of guesses is chosen afterwards.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from audits.intervals import wilson
from benchmarks.audit_cases import Case, cases
from benchmarks.audit_methods import ALPHA
from benchmarks.table import Cell, markdown

REPORT = Path("reports/published/coverage/bounds.md")


class Coverage(NamedTuple):
    """How a method did.

    Attributes:
        mechanism: its name.
        method: its label.
        truth: the true epsilon.
        audits: simulated ones.
        failures: audits whose bound was above the truth.
        mean: of the bounds.
        warning: whether it is there to show what goes wrong.
    """

    mechanism: str
    method: str
    truth: float
    audits: int
    failures: int
    mean: float
    warning: bool

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 99 % interval of the rate of failures."""
        return wilson(self.failures, self.audits, 0.01)

    @property
    def holds(self) -> bool:
        """Whether it fails no more often than it may, as far as can be told."""
        return self.interval[0] <= ALPHA

    @property
    def share(self) -> float:
        """The mean bound as a share of the truth."""
        return self.mean / self.truth if self.truth > 0 else math.nan


def simulate(case: Case, canaries: int, audits: int, seed: int) -> list[Coverage]:
    """Returns how each method of a case did, over the same audits.

    Args:
        case: the mechanism and what audits it.
        canaries: of each audit, inside and outside together.
        audits: to simulate.
        seed: of all of them.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {label: [] for label in case.methods}
    for _ in range(audits):
        coins, scores = case.draw(canaries, rng)
        for label, method in case.methods.items():
            found[label].append(method(coins, scores))
    return [_coverage(case, label, values) for label, values in found.items()]


def _coverage(case: Case, label: str, values: Sequence[float]) -> Coverage:
    truth = case.truth[label]
    # Bounds that reach the truth exactly, as 0 does, may be off by rounding.
    failures = sum(value > truth + 1e-9 for value in values)
    mean = float(np.mean(values))
    return Coverage(case.name, label, truth, len(values), failures, mean, case.fails)


def table(found: Sequence[Coverage]) -> str:
    """Returns a Markdown table of how each method did."""

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    def rate(it: Coverage) -> Cell:
        low, high = it.interval
        text = f"{percent(it.failures / it.audits)} ({100 * low:.1f} to {100 * high:.1f})"
        return Cell(text)

    columns = {
        "method": [Cell(it.method) for it in found],
        "epsilon": [Cell(f"{it.truth:.3f}") for it in found],
        "above it": [rate(it) for it in found],
        "mean bound": [Cell(f"{it.mean:.3f}") for it in found],
        "of epsilon": [Cell("-" if math.isnan(it.share) else percent(it.share)) for it in found],
    }
    return markdown("mechanism", [it.mechanism for it in found], columns)


def main(words: list[str] | None = None) -> int:
    """Prints and writes a Markdown table, and returns the exit code.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--audits", type=int, default=2000, help="(default: %(default)s)")
    made.add_argument("--canaries", type=int, default=1000, help="(default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--out", type=Path, default=REPORT, help="(default: %(default)s)")
    words = sys.argv[1:] if words is None else words
    given = made.parse_args(words)
    found: list[Coverage] = []
    for case in tqdm(cases(), disable=None, file=sys.stderr):
        found += simulate(case, given.canaries, given.audits, given.seed)
    command = shlex.join(["python", "-m", "benchmarks.audit_coverage", *words])
    body = table(found)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(HEAD.format(command=command, **vars(given)) + body + "\n")
    print(body)
    return 0 if all(it.holds for it in found if not it.warning) else 1


HEAD = """# Bounds on epsilon, for mechanisms whose epsilon is known

    {command}

{audits} simulated audits of {canaries} canaries each, every one inserted by a fair coin. A bound
may be above the true epsilon in 5 % of them; in brackets is Wilson's 99 % interval of how often it
is. Attack, threshold and number of guesses are fixed before, but for the last rows, where the best
is chosen afterwards. Delta is 1e-5, and 0 for Laplace noise and randomized response. "-": the true
epsilon is 0.

"""


if __name__ == "__main__":
    sys.exit(main())
