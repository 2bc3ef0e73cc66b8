"""Arms of finished sweeps against one of them, seed by seed, as a Markdown table.

    python -m benchmarks.paired runs/momentum/reuters-512 runs/momentum/reuters-256
    python -m benchmarks.paired --measures ppl,exp_1,exp_4,auc runs/text+runs/text-paced \
        --picture differences.png

Every argument is a store of `dpclip audit`, or several joined by + whose arms belong together. A
cell is the mean over seeds with Student's 95 % interval. The runs of one seed share the model they
begin with, its canaries and their coins, so differences are taken by seed; those whose interval
leaves out zero are marked with a star. Nothing is corrected for the number of comparisons.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.paired_figure import exposure_differences
from benchmarks.paired_runs import Runs, by_arm, difference, mean
from benchmarks.table import Cell, markdown
from reports import Row, read
from reports.intervals import Interval
from reports.rows import number, utility_of


def compared(runs: Runs, baseline: str, measures: Sequence[str]) -> str:
    """Returns the table: learning rate, each measure, and its difference to the baseline's.

    Args:
        runs: of each arm.
        baseline: its name.
        measures: columns of the runs.

    Raises:
        ValueError: no such arm, no such column, or arms whose seeds differ.
    """
    if baseline not in runs:
        raise ValueError(f"No arm is {baseline!r}: expected one of {', '.join(runs)}.")
    for measure in measures:
        if not all(measure in row for held in runs.values() for row in held):
            raise ValueError(f"Some runs have no {measure!r}. Name a column that all of them have.")
    columns = {"seeds": [Cell(f"{len(held)}") for held in runs.values()]}
    columns["lr"] = [Cell(_listed({number(row, "lr") for row in h})) for h in runs.values()]
    if any("mean_batch" in row for held in runs.values() for row in held):
        columns["mean batch"] = [Cell(_batch(held)) for held in runs.values()]
    for measure in measures:
        columns[measure] = [Cell(_written(mean(held, measure))) for held in runs.values()]
        columns["difference" + " " * len(columns)] = [
            Cell("" if name == baseline else _apart(difference(held, runs[baseline], measure)))
            for name, held in runs.items()
        ]
    return markdown("arm", list(runs), columns)


def _batch(held: Sequence[Row]) -> str:
    found = mean(held, "mean_batch").mean
    return "fixed" if math.isnan(found) else f"{found:.0f}"


def _written(found: Interval) -> str:
    bounds = f" [{found.low:.3f}, {found.high:.3f}]" if found.known else ""
    return f"{found.mean:.3f}{bounds}"


def _apart(found: Interval) -> str:
    bounds = f" [{found.low:+.3f}, {found.high:+.3f}]" if found.known else ""
    star = " *" if found.known and not found.contains(0.0) else ""
    return f"{found.mean:+.3f}{bounds}{star}"


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:g}" for n in sorted(numbers))


def main(words: list[str] | None = None) -> None:
    """Prints a table for each argument.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("stores", nargs="+", metavar="STORE[+STORE]")
    made.add_argument("--baseline", default="no clipping", help="(default: %(default)s)")
    made.add_argument("--measures", metavar="A,B", help="(default: utility,exp_1,auc)")
    made.add_argument(
        "--picture", type=Path, help="of exposure by repetition, beside the baseline's"
    )
    given = made.parse_args(words)
    drawn: dict[str, Runs] = {}
    for argument in given.stores:
        rows = [row for store in argument.split("+") for row in read(Path(store))]
        measures = given.measures.split(",") if given.measures else _usual(rows)
        names = ", ".join(Path(store).name for store in argument.split("+"))
        drawn[names] = by_arm(rows)
        print(f"{names}:\n\n{compared(drawn[names], given.baseline, measures)}\n")
    if given.picture:
        exposure_differences(drawn, given.baseline).savefig(given.picture)


def _usual(rows: Sequence[Row]) -> list[str]:
    utility = utility_of(rows)
    return [*([utility.column] if utility else []), "exp_1", "auc"]


if __name__ == "__main__":
    main()
