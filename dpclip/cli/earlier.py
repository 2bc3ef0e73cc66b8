"""Earlier sweeps and what they hold: from a store's summary, its finished runs, or MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audits.kept import Kept, kept, latest
from dpclip.arms import Arm
from reports import Row, read
from reports import provenance as kept_provenance
from reports.arms import arm_of
from reports.provenance import Provenance
from reports.rows import EXTRAS, RESULTS
from reports.summary import NAME
from reports.tracked import Sweep, connect, logged, sweeps

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_OF_CELL = frozenset({"seed", "lr", *(field.name for field in dataclasses.fields(Arm))})


@dataclass(frozen=True)
class Run:
    """A run of an earlier sweep.

    Attributes:
        row: its flat dict.
        canaries: one flat dict for each, none where they are not at hand.
        series: what was recorded over training, nothing where it is not at hand.
        ids: in MLflow, of the run and of its sweep; none where they are not known.
    """

    row: Row
    canaries: Sequence[Row] = ()
    series: Mapping[str, Sequence[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Earlier:
    """An earlier sweep.

    Attributes:
        name: of the sweep, for people.
        source: what its rows were read from, and what that means.
        runs: what it holds.
        provenance: how it came about, None where that is not recorded.
        notes: what is not shown of it.
    """

    name: str
    source: str
    runs: tuple[Run, ...]
    provenance: Provenance | None
    notes: tuple[str, ...] = ()


def of_store(store: Path) -> list[Earlier]:
    """Returns the sweep of a store: of summary.csv, else of what is finished, else of its database.

    Raises:
        FileNotFoundError: it holds nothing of a sweep.
        ValueError: a file is damaged.
    """
    cells = [cell for cell in kept(store) if cell.config.get("kind") == "audit"]
    if (store / NAME).is_file():
        return [_summarized(store, cells)]
    if cells:
        mine = latest(cells, _OF_CELL)
        return [_unfinished(store, mine, len(cells) - len(mine))]
    if (store / "mlflow.db").is_file():
        found = of_server(f"sqlite:///{(store.resolve() / 'mlflow.db').as_posix()}", ())
        return [dataclasses.replace(one, name=str(store)) for one in found]
    if list((store / "cells").glob("*.json")):
        raise FileNotFoundError(
            f"there is no finished run with canaries in {store}, which is what can be compared; "
            "run dpclip audit"
        )
    read(store)  # says that there is nothing
    raise AssertionError


def of_server(uri: str, wanted: Sequence[str]) -> list[Earlier]:
    """Returns the last finished sweep of each task that was logged, and those that are asked for.

    Args:
        uri: of a tracking server or database.
        wanted: the first letters of ids of sweeps or runs.

    Raises:
        FileNotFoundError: no sweep was logged there.
        ValueError: it cannot be read.
    """
    client = connect(uri)
    found = sweeps(client)
    if not any(sweep.runs for sweep in found):
        raise FileNotFoundError(
            f"no sweep of dpclip is logged at {uri}, expected experiments dpclip-TASK with runs; "
            "check the tracking URI"
        )
    return [
        _tracked(client, sweep, [other for other in found if other.task == sweep.task])
        for sweep in _chosen(found, wanted)
    ]


def _chosen(found: Sequence[Sweep], wanted: Sequence[str]) -> list[Sweep]:
    """Returns the sweeps of the ids that were given; without, the best of each task."""
    ids = tuple(wanted)
    named = [s for s in found if ids and any(i.startswith(ids) for i in _ids(s))]
    if named:
        return named
    best: dict[str, Sweep] = {}
    for sweep in found:
        if sweep.runs and (sweep.task not in best or _better(sweep, best[sweep.task])):
            best[sweep.task] = sweep
    return list(best.values())


def _better(later: Sweep, than: Sweep) -> bool:
    return later.status == "FINISHED" and than.status != "FINISHED"


def _ids(sweep: Sweep) -> list[str]:
    return [sweep.id, *(run.info.run_id for run in sweep.runs)]


def _tracked(client: MlflowClient, sweep: Sweep, of_task: Sequence[Sweep]) -> Earlier:
    held = logged(client, sweep)
    source = (
        f"{NAME} of sweep {sweep.id} in MLflow"
        if held.exact
        else (
            f"parameters and metrics of sweep {sweep.id} in MLflow, as no {NAME} of it can be "
            f"fetched: four digits{_without(held.rows)}"
        )
    )
    rows = held.rows if held.exact else [row | {"arm": _label(row)} for row in held.rows]
    runs = zip(rows, held.ids, strict=True)
    others = [f"{s.id[:8]} ({s.status.lower()})" for s in of_task if s is not sweep and s.runs]
    notes = []
    if sweep.status != "FINISHED":
        notes.append(f"the sweep is {sweep.status.lower()}, not finished: what it logged is shown")
    if others:
        notes.append(f"other sweeps of {sweep.task}, for --runs: {', '.join(others)}")
    return Earlier(
        name=f"{sweep.task} {sweep.id[:8]}",
        source=source,
        runs=tuple(Run(row, ids=(sweep.id, run)) for row, run in runs),
        provenance=held.provenance,
        notes=tuple(notes),
    )


def _without(rows: Sequence[Row]) -> str:
    """Returns which columns of a summary none of the rebuilt rows has."""
    there = {column for row in rows for column in row}
    missing = [column for column in (*RESULTS, *EXTRAS) if column not in there]
    return f", without {', '.join(missing)}" if missing else ""


def _label(row: Row) -> str:
    """Returns the arm as it is written on the command line, of a row that does not have it."""
    arm = arm_of(row)
    return Arm(
        clip=arm.clip,
        size=arm.size,
        slots=arm.slots or "position",
        weighting=arm.weighting,
        number=arm.C,
        sigma=arm.sigma,
        pacing=arm.pacing or "none",
    ).label


def _summarized(store: Path, cells: Sequence[Kept]) -> Earlier:
    rows = read(store)
    found = [next((c for c in cells if _made(c, row)), None) for row in rows]
    beside = len(cells) - sum(cell is not None for cell in found)
    notes = (
        f"{beside} finished runs that lie there are not in {NAME}: of an earlier sweep, or of one "
        "that is running or was interrupted, which the same command finishes"
    )
    return Earlier(
        name=str(store),
        source=NAME,
        runs=tuple(_run(row, cell) for row, cell in zip(rows, found, strict=True)),
        provenance=kept_provenance.read(store),
        notes=(notes,) if beside > 0 else (),
    )


def _unfinished(store: Path, cells: Sequence[Kept], others: int) -> Earlier:
    every = cells[-1].config.get("tests", "all")
    note = (
        f"{_runs(others)} of another sweep, which wrote before it and has no {NAME} either: what "
        "the store holds of that one is not shown"
    )
    return Earlier(
        name=str(store),
        source=(
            f"the {len(cells)} of {every} runs that are finished: there is no {NAME} yet, as the "
            "sweep is running or was interrupted; the same command finishes it"
        ),
        runs=tuple(_run(cell.result["row"], cell) for cell in cells),
        provenance=None,
        notes=(note,) if others else (),
    )


def _runs(count: int) -> str:
    return "1 finished run is" if count == 1 else f"{count} finished runs are"


def _run(row: Row, cell: Kept | None) -> Run:
    if cell is None:
        return Run(row)
    return Run(row, cell.result.get("canaries", ()), cell.result.get("series", {}))


def _made(cell: Kept, row: Row) -> bool:
    """Whether the row is that of the cell: both have the same values where both have one."""
    mine: dict[str, Any] = cell.result["row"]
    return all(_same(mine.get(name), value) for name, value in row.items())


def _same(one: object, other: object) -> bool:
    return one is None or one != one or one == other
