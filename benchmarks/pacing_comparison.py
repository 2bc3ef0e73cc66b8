"""Batches paced by angle against fixed batches as large as theirs are on average.

    python -m benchmarks.pacing_comparison --task translation --data multi30k --limit 6000 \
        --epochs 5 --micro 16 --alphas 1.1,1.5 --seeds 3 --store runs/pacing

For each alpha this trains with `angle:ALPHA` on increments of --micro samples, then plainly with a
batch of the mean size that came out (of the runs that are reported, not of the search), for the
same number of passes, so with as many samples. Both search the task's learning rates. It prints
the two beside each other, seed by seed, and how large batches were in the first and the last third
of the samples. Each arm is an audit with a store of its own, so a run that was interrupted goes on.

By default every sample is a group that is never clipped, so each counts alike. With `--grouping
none` an increment is one group, and one that Poisson sampling left small counts as much as a large
one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.paired import compared
from benchmarks.paired_runs import mean
from dpclip.cli import main as dpclip
from reports import Row, read
from reports.intervals import over_seeds
from reports.rows import number


class Sizes(NamedTuple):
    """Mean samples of an update.

    Attributes:
        early: in the first third of the samples.
        late: in the last third.
    """

    early: float
    late: float


def thirds(sizes: Sequence[float]) -> Sizes:
    """Returns the mean size of the updates that begin in the first and in the last third.

    Args:
        sizes: samples of each update in order.

    Raises:
        ValueError: fewer than three updates.
    """
    if len(sizes) < 3:
        raise ValueError(f"Found {len(sizes)} updates: expected at least 3. Train for longer.")
    held = np.asarray(sizes, dtype=np.float64)
    begins = np.concatenate([[0.0], held.cumsum()[:-1]])
    early, late = begins < held.sum() / 3, begins >= held.sum() * 2 / 3
    # An update larger than a third leaves the last third without a beginning.
    return Sizes(float(held[early].mean()), float(held[late].mean() if late.any() else held[-1]))


def sizes_of(store: Path) -> list[Sizes]:
    """Returns early and late sizes of each paced run that is reported."""
    results = [json.loads(path.read_text()) for path in sorted((store / "cells").glob("*.json"))]
    series = [it["result"]["series"] for it in results if it["config"]["kind"] == "audit"]
    return [thirds([n for _, n in held["pace/samples"]]) for held in series]


def ran(given: argparse.Namespace, name: str, pacing: str, batch: int) -> list[Row]:
    """Returns the rows of one arm, after training what its store does not hold.

    Raises:
        SystemExit: the audit failed, with its exit code.
    """
    store = given.store / name
    words = ["audit", "--task", given.task, "--pacing", pacing]
    words += ["--grouping", given.grouping, "--weighting", given.weighting]
    words += ["--batch_size", f"{batch}", "--seeds", f"{given.seeds}", "--search", "true"]
    words += ["--workers", f"{given.workers}", "--store", f"{store}", "--gradient_canaries", "0"]
    for option in ("data", "limit", "epochs"):
        if (value := getattr(given, option)) is not None:
            words += [f"--{option}", f"{value}"]
    if code := dpclip(words):
        raise SystemExit(code)
    return list(read(store))


def fixed_batch(paced: Sequence[Row]) -> int:
    """Returns the mean batch of paced runs, rounded.

    Raises:
        ValueError: a run without a single update.
    """
    if any("mean_batch" not in row or not number(row, "updates") for row in paced):
        raise ValueError("A paced run has made no update. Train for longer, or cap its batches.")
    return round(mean(paced, "mean_batch").mean)


def compare(given: argparse.Namespace, alpha: str) -> str:
    """Returns the Markdown of one alpha."""
    name = f"angle-{alpha.replace(':', '-')}"
    paced = ran(given, name, f"angle:{alpha}", given.micro)
    batch = fixed_batch(paced)
    fixed = ran(given, f"fixed-{batch}", "none", batch)
    known = [m for m in given.measures.split(",") if all(m in row for row in [*paced, *fixed])]
    label = f"batches of {batch}"
    table = compared({label: fixed, f"angle {alpha}": paced}, label, known)
    return f"{table}\n\n{growth(sizes_of(given.store / name))}"


def growth(sizes: Sequence[Sizes]) -> str:
    """Returns a sentence on whether updates grow during the training.

    Args:
        sizes: of each run.
    """
    early, late, grown = (
        over_seeds(values)
        for values in zip(*((at.early, at.late, at.late - at.early) for at in sizes), strict=True)
    )
    return (
        f"Samples of an update: {early} in the first third of the samples, {late} in the last, a "
        f"difference of {grown}."
    )


def main(words: list[str] | None = None) -> None:
    """Prints a table for each alpha.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--task", default="translation", help="(default: %(default)s)")
    made.add_argument("--data", help="where the records are, as for dpclip audit")
    made.add_argument("--limit", type=int, help="records to train on")
    made.add_argument("--epochs", type=int, help="passes (default: the task's)")
    made.add_argument("--micro", type=int, default=16, help="(default: %(default)s)")
    made.add_argument("--alphas", default="1.1", metavar="ALPHA[:CAP],...")
    made.add_argument("--grouping", default="sample", help="(default: %(default)s)")
    made.add_argument("--weighting", default="clip:1e9", help="(default: %(default)s)")
    made.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    made.add_argument("--measures", default="bleu,chrf,test_loss,acc,ppl,exp_1,auc")
    made.add_argument("--workers", type=int, default=1, help="(default: %(default)s)")
    made.add_argument("--store", type=Path, default=Path("runs/pacing"))
    given = made.parse_args(words)
    tables = [compare(given, alpha) for alpha in given.alphas.split(",")]
    print("\n" + "\n\n".join(tables))


if __name__ == "__main__":
    main()
