"""The learning-rate search: the same small grid for every arm, judged on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audits.sweep import Cell, Result, Scalar

SEED = 1000  # apart from the seeds of the runs that are reported


def search_cells(arm: Mapping[str, Scalar], label: str, rates: Sequence[float]) -> list[Cell]:
    """Returns one cell for each learning rate."""
    return [
        Cell(f"{label} lr {rate:g}", {**arm, "kind": "search", "seed": SEED, "lr": rate})
        for rate in rates
    ]


def best_rate(results: Sequence[Result], higher_is_better: bool) -> float:
    """Returns the learning rate with the best validation metric, the smaller one of equals.

    Raises:
        RuntimeError: training diverged at every rate.
    """
    tried = [(r["row"]["validation"], r["row"]["lr"]) for r in results]
    valid = [(value, rate) for value, rate in tried if value is not None]
    if not valid:
        rates = ", ".join(f"{rate:g}" for _, rate in tried)
        raise RuntimeError(f"Training diverged at every learning rate of the search ({rates}).")
    sign = -1 if higher_is_better else 1
    return float(min(valid, key=lambda pair: (sign * pair[0], pair[1]))[1])
