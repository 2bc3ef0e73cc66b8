"""The commands demo and audit: all cells of a sweep, then the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from audits.search import SEEDS, best_rate, search_cells
from audits.sweep import Cell, Result, Store, run
from audits.tasks import Task
from dpclip.arms import Arm, lists_of, together
from dpclip.cli.cells import work
from dpclip.cli.checks import check_options, rehearse
from dpclip.cli.claims import promises_of
from dpclip.cli.digests import made_of
from dpclip.cli.errors import Usage, asked
from dpclip.cli.logged import log_sweep
from dpclip.cli.manifests import check_kept
from dpclip.cli.options import Audit, Demo
from dpclip.cli.output import Output, judged
from dpclip.cli.prospects import prospects
from dpclip.cli.self_test import self_test
from dpclip.cli.speech import OPTIONS, TASKS
from dpclip.cli.tasks import task_of
from reports import Provenance, console, headline, remarks, summarize, write
from reports.tracking import open_experiment
from reports.ui import directions

_CELL = (
    *("task", "data", "limit", "batch_size", "epochs", "families", "secret", "alphabet"),
    "references",
)


def demo(chosen: Demo, words: str) -> None:
    """Runs the audit of the digits task with a learning-rate search."""
    audit(Audit(seeds=chosen.seeds, search=True, workers=chosen.workers, store=chosen.store), words)


def audit(chosen: Audit, words: str) -> None:
    """Runs every arm with every seed, prints the table, writes and logs the report.

    Raises:
        Usage: something asked for cannot be done; nothing was run.
        Contradicted: a lower bound exceeds a claimed epsilon; everything was written.
    """
    asked(lambda: check_options(chosen))
    if chosen.self_test:
        if chosen.quiet or chosen.json:
            raise Usage("--self-test prints its table for people: leave out --quiet and --json.")
        self_test(chosen.loop, chosen.runs, chosen.first_seed, chosen.delta, chosen.alpha)
        return
    arms, skipped = asked(
        lambda: together(
            lists_of(chosen.task, chosen.grouping, chosen.weighting, chosen.noise), chosen.pacing
        )
    )
    config = _config(chosen, len(arms))
    task = asked(lambda: task_of(config))
    config |= {"canaries": chosen.canaries or task.canaries}
    planted = asked(lambda: rehearse(task, arms, config, chosen.first_seed))
    assert planted is not None
    config |= {"made_of": made_of(task, planted)}
    promises = asked(lambda: promises_of(arms, task, planted, config))
    settings = {arm: config | dataclasses.asdict(arm) for arm in arms}
    told = asked(lambda: list(prospects(task, planted, promises, config, chosen.first_seed)))
    if chosen.search and not task.lrs:
        raise Usage(f"Task {task.name} has no learning rates to search in. Leave out --search.")
    store = asked(lambda: Store(chosen.store, task.name))
    # Workers that meet a database without tables would all make them.
    asked(lambda: open_experiment(chosen.store, task.name))
    total = len(arms) * (chosen.seeds + (len(task.lrs) * len(SEEDS) if chosen.search else 0))
    output = Output(chosen.quiet, chosen.json)
    output.remark("\n  ".join(["Before training:", *told]))
    manifests = chosen.store / "manifests"
    with tqdm(total=total, unit="run", disable=chosen.quiet or None) as bar:

        def ran(cells: Sequence[Cell]) -> list[Result]:
            def done(cell: Cell, _: Result) -> None:
                bar.set_postfix_str(cell.label)
                bar.update()

            kept = partial(work, manifests=manifests)
            return run(cells, kept, store, chosen.workers, done)

        rates = dict.fromkeys(arms, chosen.lr or task.lr)
        if chosen.search:
            grids = {a: search_cells(settings[a], a.label, task.lrs) for a in arms}
            found = iter(ran([cell for grid in grids.values() for cell in grid]))
            rates = {
                arm: best_rate([next(found) for _ in grid], task.higher_is_better, arm.label)
                for arm, grid in grids.items()
            }
        cells = [
            _cell(arm, settings[arm], seed, rates[arm])
            for arm in arms
            for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds)
        ]
        results = ran(cells)
    for cell, result in zip(cells, results, strict=True):
        check_kept(manifests / cell.key, result["row"])
    rows = [result["row"] for result in results]
    provenance = Provenance(
        command=words,
        configuration=_told(task, config),
        learning_rates=task.lrs if chosen.search else (),
        chosen_by=_judged(task) if chosen.search else "",
        skipped=skipped,
    )
    files = write(
        chosen.store,
        rows,
        provenance,
        [result["canaries"] for result in results],
        [result["series"] for result in results],
    )
    frame = summarize(rows)
    output.remark("")
    output.result(headline(frame), "", console(frame))
    output.remark("", *remarks(rows), "")
    output.rows(rows)
    output.remark(f"Report: {chosen.store / 'report.md'}, with pictures beside it")
    shared = (
        f"alpha {chosen.alpha:g} shared over the {len(rows)} runs of this sweep; other sweeps have "
        "spent their own"
    )
    with judged(rows, shared):
        link = log_sweep(chosen.store, task.name, cells, results, files, headline(frame))
        output.remark(f"Runs: {directions(chosen.store, link)}")


def _judged(task: Task) -> str:
    seeds = ", ".join(map(str, SEEDS))
    return f"mean validation {task.metric} of {len(SEEDS)} runs each (seeds {seeds})"


def _cell(arm: Arm, setting: Mapping[str, Any], seed: int, rate: float) -> Cell:
    config = {**setting, "kind": "audit", "seed": seed, "lr": rate}
    return Cell(f"{arm.label} seed {seed}", config)


def _config(chosen: Audit, arms: int) -> dict[str, Any]:
    """Returns what all cells share; whatever does not change a result stays out.

    All runs print a lower bound, so all of them share alpha.
    """
    own = OPTIONS if chosen.task in TASKS else ()
    names = (*_CELL, *own, "gradient_canaries", "delta", "accountant")
    runs = arms * chosen.seeds
    return {name: getattr(chosen, name) for name in names} | {
        "alpha": chosen.alpha / runs,
        "tests": runs,
    }


def _told(task: Task, config: Mapping[str, Any]) -> dict[str, object]:
    return {
        "task": task.name,
        "training records": len(task.train),  # type: ignore[arg-type]
        "test records": len(task.test),  # type: ignore[arg-type]
        "expected batch": task.batch_size,
        "epochs": task.epochs,
        "canary families": ", ".join(task.families),
        "canaries per tier and family": f"{config['canaries']}, of which a coin inserts half",
        "sampling": "Poisson",
        **task.facts,
    }
