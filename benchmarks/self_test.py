"""How often the audit catches bugs that were planted in a training loop.

    python -m benchmarks.self_test --runs 40 --out reports/published/self_test/bugs.md

The table of `dpclip audit --self-test` with more runs: the small loop, full batches, 16 steps with
noise multiplier 4 (mu = 1), 1,000 Dirac canaries, 200 guesses fixed beforehand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from audits.self_test import Design, Row
from dpclip.cli.planted_bugs import BUGS
from dpclip.cli.self_test import HEADERS, NOTES, cells, table
from dpclip.cli.small_loop import records, train


def document(rows: Sequence[Row], command: str) -> str:
    """Returns the page: the command, the table, and how to read it."""
    body = tabulate(cells(rows), HEADERS, tablefmt="github", disable_numparse=True)
    told = (
        "A training loop is run with one bug at a time, and Dirac canaries (gradients of length C "
        "at a coordinate of their own) join its sums after clipping. Full batches, "
        f"{rows[0].verdicts[0].claim.steps} steps, noise multiplier "
        f"{rows[0].verdicts[0].claim.noise_multiplier:g}, per-sample clipping: mu = "
        f"{rows[0].verdicts[0].claim.mu:g}, which the accountant reports as epsilon "
        f"{rows[0].verdicts[0].claim.epsilon:.3f} at delta 1e-5."
    )
    return "\n\n".join(["# Planted bugs", f"```\n{command}\n```", told, body, NOTES]) + "\n"


def main(words: list[str] | None = None) -> None:
    """Prints the page, or writes it.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--runs", type=int, default=40, help="for each bug (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--out", type=Path, help="file to write; prints if not given")
    given = made.parse_args(words)
    torch.set_num_threads(1)
    rows = table(train, records(), BUGS, given.runs, given.seed, Design())
    seed = f" --seed {given.seed}" if given.seed else ""
    out = f" --out {given.out}" if given.out else ""
    page = document(rows, f"python -m benchmarks.self_test --runs {given.runs}{seed}{out}")
    if given.out is None:
        print(page)
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)


if __name__ == "__main__":
    main()
