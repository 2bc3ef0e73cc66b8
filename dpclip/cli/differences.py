"""What sets earlier sweeps apart, so that their arms are not compared as if nothing did."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from dpclip.cli.earlier import Earlier, Run
from reports import Row, arm_name
from reports.rows import NUMBERS, TEXTS, number, text

_TRAINED = ("lr", "q", "epochs", "delta", "canaries", "references")  # numbers: how an arm was made
_SETTINGS = (*_TRAINED, "exp_ceiling", "randomness", "model")
_ROUNDED = 1e-3  # by how much what was logged with four digits may miss a value
# By how much the same setting may differ between seeds: steps are whole, and coins decide how many
# canaries a batch is drawn beside.
_SEEDS = {"epochs": 0.03, "q": 0.2}


def apart(found: Sequence[Earlier]) -> list[Earlier]:
    """Returns the sweeps, each a task of its own where they hold an arm that was made differently.

    An arm with the same seed in two sweeps was trained in two ways; so is an arm of two models,
    of two learning rates, batch sizes, numbers of passes, deltas, or with other canaries. Within a
    sweep nothing is set apart.
    """
    tasks = {text(run.row, "task") for one in found for run in one.runs}
    twice = {task for task in tasks if _collide([one for one in found if _holds(one, task)], task)}
    return [dataclasses.replace(one, runs=tuple(_renamed(one, twice))) for one in found]


def differences(found: Sequence[Earlier]) -> list[str]:
    """Returns a sentence per setting in which sweeps of one task differ, and per missing column."""
    tasks = dict.fromkeys(text(run.row, "task") for one in found for run in one.runs)
    told = []
    for task in tasks:
        among = [one for one in found if _holds(one, task)]
        held = {one.name: _rows(one, task) for one in among}
        searched = all(_searched(one) for one in among)  # then each arm has a rate of its own
        for name in _SETTINGS:
            if name == "lr" and searched:
                continue
            if name == "q" and not _spread([_mean(rows, name) for rows in held.values()], name):
                continue
            told += _difference(task, name, {s: _values(r, name) for s, r in held.items()})
        told += _configured(task, among)
        told += _lacking(held)
    return told


def _difference(task: str, name: str, values: Mapping[str, str]) -> list[str]:
    if len(set(values.values()) - {""}) < 2:
        return []
    said = "; ".join(f"{sweep}: {value or '-'}" for sweep, value in values.items())
    return [
        f"{task}: the sweeps differ in {name} ({said}), so a difference between their arms may "
        "come from that."
    ]


def _configured(task: str, found: Sequence[Earlier]) -> list[str]:
    """Returns what else was not the same, of what sweeps recorded about themselves."""
    kept = {one.name: one.provenance.configuration for one in found if one.provenance is not None}
    names = dict.fromkeys(name for held in kept.values() for name in held)
    told = []
    for name in (name for name in names if name not in _SETTINGS):
        values = {s: str(held[name]) if name in held else "" for s, held in kept.items()}
        told += _difference(task, name, values)
    return told


def _searched(one: Earlier) -> bool:
    return one.provenance is not None and len(one.provenance.learning_rates or ()) > 1


_OF_SOME_ARMS = frozenset({"C", "mb"})  # adaptive rules have no bound, plain training no groups


def _lacking(held: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns which columns some sweeps of a task have and others have not."""
    columns = {name: {column for row in rows for column in row} for name, rows in held.items()}
    known = (set().union(*columns.values()) & (NUMBERS | TEXTS)) - _OF_SOME_ARMS
    return [
        f"{name} has no {', '.join(sorted(known - mine))}, which others have: another version of "
        "dpclip wrote it."
        for name, mine in columns.items()
        if known - mine
    ]


def _collide(held: Sequence[Earlier], task: str) -> bool:
    seen: dict[tuple[str, float], str] = {}
    arms: dict[str, dict[str, list[Row]]] = {}
    for one in held:
        for row in _rows(one, task):
            arm = arm_name(row)
            if seen.setdefault((arm, number(row, "seed")), one.name) != one.name:
                return True
            arms.setdefault(arm, {}).setdefault(one.name, []).append(row)
    return any(_made_differently(list(sweeps.values())) for sweeps in arms.values())


def _made_differently(sweeps: Sequence[Sequence[Row]]) -> bool:
    """Whether the runs of one arm, by sweep, differ in what should be the same; unknown is not."""
    if len({text(row, "model") for rows in sweeps for row in rows}) > 1:
        return True
    return any(_spread([_mean(rows, name) for rows in sweeps], name) for name in _TRAINED)


def _spread(values: Sequence[float], name: str) -> bool:
    known = [value for value in values if not math.isnan(value)]
    slack = _SEEDS.get(name, _ROUNDED)
    return bool(known) and not math.isclose(min(known), max(known), rel_tol=slack)


def _mean(rows: Sequence[Row], name: str) -> float:
    found = [value for row in rows if not math.isnan(value := _number(row, name))]
    return sum(found) / len(found) if found else math.nan


def _number(row: Row, name: str) -> float:
    """Returns a setting as a number; epochs are passes over the data, whatever the batch."""
    if name == "epochs":
        # Under Poisson sampling seeds differ a little in their steps.
        return number(row, "steps") * number(row, "q")
    return number(row, name)


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
    if name not in _TRAINED:
        return ", ".join(sorted({text(row, name) for row in rows} - {""}))
    form = "{:.0f}" if name == "epochs" else "{:.4g}"
    found = {_number(row, name) for row in rows}
    return ", ".join(sorted({form.format(value) for value in found if not math.isnan(value)}))
