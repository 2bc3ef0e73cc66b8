"""The command compare: one table, and one report, of earlier sweeps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dpclip.cli.differences import apart, differences
from dpclip.cli.earlier import Earlier, Run, of_server, of_store
from dpclip.cli.errors import Contradicted, Usage, asked
from dpclip.cli.options import Compare
from dpclip.cli.output import Output
from reports import arm_name, console, headline, remarks, summarize, write
from reports.arms import arm_of
from reports.provenance import together
from reports.rows import number, text

_ID = re.compile(r"[0-9a-f]{8,32}")


def compare(chosen: Compare, words: str) -> None:
    """Prints one table of the runs of earlier sweeps and, if asked, writes their report.

    Raises:
        Usage: no such sweep or run, a damaged store, or a folder that is a store itself.
        Contradicted: a lower bound exceeds a claimed epsilon; everything was written.
    """
    output = Output(chosen.quiet, chosen.json)
    if chosen.out is not None:
        _refuse_store(chosen.out, _listed(chosen.stores))
    wanted = _listed(chosen.runs)
    found = asked(lambda: _found(chosen, wanted))
    found = _filtered(found, wanted) if wanted else found
    differ = differences(found)
    found = apart(found)
    runs = [run for one in found for run in one.runs]
    rows = [run.row for run in runs]
    frame = asked(lambda: summarize(rows))
    sources = _sources(found)
    output.result(headline(frame), "", console(frame))
    read_from = (f"From {name}: {source}." for name, source in sources.items())
    output.remark("", *remarks(rows), *read_from, *differ)
    output.rows({**run.row, "source": one.name} for one in found for run in one.runs)
    if chosen.out is not None:
        _write(chosen.out, found, differ, words)
        output.remark(
            f"Report: {chosen.out / 'report.html'}, and report.md with pictures beside it"
        )
    if wrong := [arm_name(row) for row in rows if text(row, "verdict") == "contradicted"]:
        raise Contradicted(
            f"the lower bound of {wrong[0]} exceeds the epsilon it claims, as its sweep found"
        )


def _write(folder: Path, found: Sequence[Earlier], differ: Sequence[str], words: str) -> None:
    runs = [run for one in found for run in one.runs]
    provenance = together({one.name: one.provenance for one in found}, words)
    told = {f"rows of {name}": source for name, source in _sources(found).items()}
    told |= {"differences": " ".join(differ)} if differ else {}
    provenance = dataclasses.replace(provenance, configuration={**provenance.configuration, **told})
    any_canaries, any_series = any(r.canaries for r in runs), any(r.series for r in runs)
    write(
        folder,
        [run.row for run in runs],
        provenance,
        [run.canaries for run in runs] if any_canaries else (),
        [run.series for run in runs] if any_series else (),
    )


def _found(chosen: Compare, wanted: Sequence[str]) -> list[Earlier]:
    """Returns the sweeps of the stores and of the tracking server, the demo's without either."""
    stores = _listed(chosen.stores)
    if chosen.stores is None and chosen.tracking_uri is None:
        stores = ["demo"]
    if not stores and chosen.tracking_uri is None:
        raise ValueError("--stores names no folder: give those of earlier sweeps.")
    places = [Path(store).resolve() for store in stores]
    if twice := [store for store, p in zip(stores, places, strict=True) if places.count(p) > 1]:
        raise ValueError(f"--stores names {twice[0]} more than once: name each store once.")
    found = [one for store in stores for one in of_store(Path(store))]
    if chosen.tracking_uri is not None:
        found += of_server(chosen.tracking_uri, [word for word in wanted if _ID.fullmatch(word)])
    return found


def _refuse_store(folder: Path, stores: Sequence[str]) -> None:
    """Raises Usage where a report would overwrite what is compared, or any other store's."""
    compared = folder.resolve() in [Path(store).resolve() for store in stores]
    if compared or (folder / "cells").exists() or (folder / "task").exists():
        raise Usage(
            f"--out {folder} is the store of a sweep, whose own report would be overwritten: "
            "choose another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise Usage(f"--out {folder} is a file: choose a folder.")


def _filtered(found: Sequence[Earlier], wanted: Sequence[str]) -> list[Earlier]:
    """Returns the runs that any of the words stand for.

    Raises:
        Usage: a word stands for none.
    """
    every = [run for one in found for run in one.runs]
    for word in wanted:
        if not any(_stands_for(word, run) for run in every):
            names = dict.fromkeys(arm_name(run.row) for run in every)
            told = f"--runs {word!r} is none of the runs: {'; '.join(names)}."
            if _ID.fullmatch(word) and not any(run.ids for run in every):
                told += " An id is known to MLflow alone: give --tracking_uri for it."
            raise Usage(told)
    held = [
        dataclasses.replace(
            one, runs=tuple(r for r in one.runs if any(_stands_for(w, r) for w in wanted))
        )
        for one in found
    ]
    return [one for one in held if one.runs]


def _stands_for(word: str, run: Run) -> bool:
    """Whether the word is the beginning of an id, or its words are in the arm's in that order."""
    if _ID.fullmatch(word) and any(found.startswith(word) for found in run.ids):
        return True
    seed = f"seed{number(run.row, 'seed'):g}"
    task, clip = text(run.row, "task"), arm_of(run.row).clip
    names = (arm_name(run.row), text(run.row, "arm"), clip)
    return any(_in_order(word.split(), f"{task} {name} {seed}".split()) for name in names)


def _in_order(words: Iterable[str], among: Iterable[str]) -> bool:
    rest = iter(among)
    return all(word in rest for word in words)


def _sources(found: Sequence[Earlier]) -> dict[str, str]:
    """Returns the name of each sweep -> how many of its runs are here and where they come from."""
    return {
        one.name: "; ".join([f"{_count(len(one.runs))}, from {one.source}", *one.notes])
        for one in found
    }


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _listed(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]
