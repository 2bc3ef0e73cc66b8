"""The learning-rate search: the same small grid for every arm, judged on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audits.sweep import Cell, Result, Scalar

SEEDS = (1000, 1001)  # apart from the seeds of the runs that are reported


def search_cells(arm: Mapping[str, Scalar], label: str, rates: Sequence[float]) -> list[Cell]:
    """Returns one cell for each learning rate and search seed."""
    return [
        Cell(f"{label} lr {rate:g}", {**arm, "kind": "search", "seed": seed, "lr": rate})
        for rate in rates
        for seed in SEEDS
    ]


def best_rate(results: Sequence[Result], higher_is_better: bool, label: str) -> float:
    """Returns the rate with the best mean validation metric, the smaller one of equals.

    A rate at which any run diverged is out.

    Raises:
        RuntimeError: training diverged at every rate.
    """
    tried: dict[float, list[float | None]] = {}
    for result in results:
        tried.setdefault(result["row"]["lr"], []).append(result["row"]["validation"])
    means = {
        rate: sum(v for v in values if v is not None) / len(values)
        for rate, values in tried.items()
        if None not in values
    }
    if not means:
        rates = ", ".join(f"{rate:g}" for rate in tried)
        raise RuntimeError(f"{label}: training diverged at every rate of the search ({rates}).")
    sign = -1 if higher_is_better else 1
    return min(means, key=lambda rate: (sign * means[rate], rate))
