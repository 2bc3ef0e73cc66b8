"""What sets earlier sweeps apart, so that their arms are not compared as if nothing did."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from dpclip.cli.earlier import Earlier, Run
from reports import Row, arm_name
from reports.rows import NUMBERS, TEXTS, number, text

_SETTINGS = ("canaries", "references", "exp_ceiling", "delta", "randomness", "model")


def apart(found: Sequence[Earlier]) -> list[Earlier]:
    """Returns the sweeps, each a task of its own where two hold the same run of a task.

    An arm with the same seed in two sweeps was trained in two ways; so is an arm of two models.
    """
    tasks = {text(run.row, "task") for one in found for run in one.runs}
    twice = {task for task in tasks if _collide([one for one in found if _holds(one, task)], task)}
    return [dataclasses.replace(one, runs=tuple(_renamed(one, twice))) for one in found]


def differences(found: Sequence[Earlier]) -> list[str]:
    """Returns a sentence per setting in which sweeps of one task differ, and per missing column."""
    tasks = dict.fromkeys(text(run.row, "task") for one in found for run in one.runs)
    told = []
    for task in tasks:
        held = {one.name: _rows(one, task) for one in found if _holds(one, task)}
        for name in ("epochs", *_SETTINGS):
            values = {sweep: _values(rows, name) for sweep, rows in held.items()}
            if len(set(values.values()) - {""}) > 1:
                said = "; ".join(f"{sweep}: {value or '-'}" for sweep, value in values.items())
                told.append(
                    f"{task}: the sweeps differ in {name} ({said}), so a difference between their "
                    "arms may come from that."
                )
        told += _lacking(held)
    return told


def _lacking(held: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns which columns some sweeps of a task have and others have not."""
    columns = {name: {column for row in rows for column in row} for name, rows in held.items()}
    known = set().union(*columns.values()) & (NUMBERS | TEXTS)
    return [
        f"{name} has no {', '.join(sorted(known - mine))}, which others have: another version of "
        "dpclip wrote it."
        for name, mine in columns.items()
        if known - mine
    ]


def _collide(held: Sequence[Earlier], task: str) -> bool:
    seen: dict[tuple[str, float], str] = {}
    models: dict[str, set[str]] = {}
    for one in held:
        for row in _rows(one, task):
            arm = arm_name(row)
            if seen.setdefault((arm, number(row, "seed")), one.name) != one.name:
                return True
            models.setdefault(arm, set()).add(text(row, "model"))
    return any(len(names) > 1 for names in models.values())


def _renamed(one: Earlier, twice: set[str]) -> list[Run]:
    return [
        dataclasses.replace(run, row={**run.row, "task": f"{text(run.row, 'task')} ({one.name})"})
        if text(run.row, "task") in twice
        else run
        for run in one.runs
    ]


def _holds(one: Earlier, task: str) -> bool:
    return bool(_rows(one, task))


def _rows(one: Earlier, task: str) -> list[Row]:
    return [run.row for run in one.runs if text(run.row, "task") == task]


def _values(rows: Sequence[Row], name: str) -> str:
    """Returns the values of a setting in words, each once."""
    if name == "epochs":
        # Passes over the data; under Poisson sampling seeds differ a little in their steps.
        found = {number(row, "steps") * number(row, "q") for row in rows}
        return ", ".join(sorted({f"{value:.0f}" for value in found if not math.isnan(value)}))
    return ", ".join(sorted({text(row, name) for row in rows} - {""}))
