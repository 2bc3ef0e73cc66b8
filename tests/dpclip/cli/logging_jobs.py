"""Made-up sweeps, logged as the command line logs real ones; run as a script by several at once."""

import sys
import time
from pathlib import Path
from typing import Any

from audits.sweep import Cell
from dpclip.cli.logged import log_sweep

POINTS = 120


def sweep(first_seed: int, count: int) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Returns cells and results of that many seeds."""
    seeds = range(first_seed, first_seed + count)
    cells = [Cell(f"seed {seed}", {"seed": seed, "accountant": "prv"}) for seed in seeds]
    return cells, [result(seed) for seed in seeds]


def result(seed: int) -> dict[str, Any]:
    row = {"task": "tiny", "clip": "sample", "weighting": "clip", "C": 1.0, "sigma": 0.5}
    row |= {"seed": seed, "acc": 0.9, "exposure": 1.0 + seed / 8, "eps": 3.0, "mb": 1}
    loss = [(step, seed + 1 / step) for step in range(1, POINTS + 1)]
    return {
        "row": row | {"guarantee": "(3, 1e-05)", "verdict": "consistent", "randomness": "seeded"},
        "series": {"train/loss": loss},
        "canaries": [],
        "times": [1_000_000.0 + 10 * seed, 1_000_007.5 + 10 * seed],
        "data": {"digest": "c0ffee", "records": 100},
    }


def main(store: Path, gate: Path, first_seed: int, count: int) -> None:
    """Logs a sweep as soon as the gate is open, which all wait for."""
    cells, results = sweep(first_seed, count)
    (gate / f"ready {first_seed}").touch()
    while not (gate / "open").exists():
        time.sleep(0.01)
    log_sweep(store, "tiny", cells, results, [], f"from {first_seed}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
