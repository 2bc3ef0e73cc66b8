"""Made-up runs that look like the calibration: no clipping, sample, micro-batches, cores, noise."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from reports.rows import Row

MakeRow = Callable[..., dict[str, Any]]


def make_row(**changes: Any) -> dict[str, Any]:
    """Returns one run on digits, changed as told."""
    row: dict[str, Any] = {
        "task": "digits",
        "model": "mlp",
        "clip": "none",
        "weighting": "none",
        "C": None,
        "sigma": 0.0,
        "mb": None,
        "seed": 0,
        "q": 0.05,
        "steps": 300,
        "lr": 0.05,
        "delta": 1e-5,
        "acc": 0.962,
        "exposure": 5.05,
        "exp_low": 4.2,
        "exp_high": 5.9,
        "exp_1": 5.05,
        "exp_2": 5.86,
        "exp_4": 6.7,
        "exp_8": 8.1,
        "exp_16": 8.29,
        "exp_out": 1.45,
        "exp_before": 1.42,
        "exp_ceiling": 9.97,
        "norm_pct": 99.0,
        "auc": 0.81,
        "eps": math.inf,
        "eps_lb": 0.4,
        "verdict": "not-claimed",
        "guarantee": "none: nothing is clipped",
        "clipfrac": 0.0,
        "ex_per_s": 12345.678,
        "peak_mb": 310.0,
        "budget": 0.24,
        "n_in": 50,
        "n_out": 50,
        "references": 1000,
    }
    return row | changes


# arm settings, accuracy, exposures of the five tiers
_ARMS: list[tuple[dict[str, Any], float, tuple[float, ...]]] = [
    ({}, 0.962, (5.05, 5.86, 6.70, 8.10, 8.29)),
    (
        {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1},
        *(0.938, (1.55, 1.58, 2.59, 5.74, 8.68)),
    ),
    (
        {"clip": "sample", "weighting": "clip", "C": 1.0, "mb": 1},
        *(0.960, (2.20, 2.16, 4.65, 7.17, 7.49)),
    ),
    (
        {"clip": "microbatch", "weighting": "clip", "C": 0.1, "mb": 4},
        *(0.962, (2.66, 2.66, 5.57, 7.39, 7.45)),
    ),
    (
        {"clip": "microbatch", "weighting": "clip", "C": 0.1, "mb": 16},
        *(0.958, (5.14, 5.70, 7.03, 7.39, 7.58)),
    ),
    (
        {"clip": "core", "weighting": "min", "C": None, "mb": 8},
        *(0.964, (3.90, 4.60, 6.10, 7.50, 7.90)),
    ),
    (
        {"clip": "core", "weighting": "min", "C": None, "mb": 4},
        *(0.970, (4.80, 5.70, 7.27, 7.80, 8.10)),
    ),
    (
        {"clip": "sample", "weighting": "clip", "C": 0.3, "mb": 1, "sigma": 0.5, "eps": 8.1}
        | {"guarantee": "(8.1, 1e-05), example level, PRV", "verdict": "consistent"},
        *(0.926, (1.45, 1.26, 2.45, 5.12, 7.62)),
    ),
]


def make_sweep(seeds: int = 3) -> list[dict[str, Any]]:
    """Returns eight arms with that many seeds each, spread a little around their means."""
    rows = []
    for settings, accuracy, exposures in _ARMS:
        for seed in range(seeds):
            shift = 0.0 if seeds == 1 else seed - (seeds - 1) / 2
            tiers = [exposure + 0.12 * shift for exposure in exposures]
            names = ("exp_1", "exp_2", "exp_4", "exp_8", "exp_16")
            measured = dict(zip(names, tiers, strict=True)) | {
                "exposure": tiers[0],
                "exp_low": tiers[0] - 0.6,
                "exp_high": tiers[0] + 0.6,
                "acc": accuracy + 0.002 * shift,
            }
            rows.append(make_row(seed=seed, **(settings | measured)))
    return rows


@pytest.fixture
def row() -> MakeRow:
    return make_row


@pytest.fixture
def sweep() -> list[Row]:
    return list(make_sweep())


@pytest.fixture(scope="session")
def sweep_of() -> Callable[[int], list[dict[str, Any]]]:
    return make_sweep


def make_canaries(
    once: Sequence[float] = (5.0, 6.0),
    held_out: Sequence[float] = (0.5, 1.5, 2.5),
    twice: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """Returns the table of canaries of a run: inserted once, inserted twice, held out."""
    groups = (("once", 1, True, once), ("twice", 2, True, twice), ("out", 1, False, held_out))
    return [
        {"id": f"{name}/{i}", "family": "noise", "repetitions": times, "inserted": inside}
        | {"exposure": bits, "low": bits - 0.5, "high": bits + 0.5, "before": 1.0}
        for name, times, inside, values in groups
        for i, bits in enumerate(values)
    ]


@pytest.fixture
def canaries() -> Callable[..., list[dict[str, Any]]]:
    return make_canaries
