"""The self-test of the audit: known bugs must be caught, in our loop or in a user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from tabulate import tabulate
from torch.utils.data import Dataset
from tqdm import tqdm

from audits.self_test import Case, Design, Loop, Row, Verdict, once, shared, trial
from dpclip.cli.errors import Contradicted, Usage
from dpclip.cli.planted_bugs import BUGS, NONE, Bug, Factory
from dpclip.cli.small_loop import records, train

CANARIES = 1000
HEADERS = (
    "bug",
    "caught",
    "95 % interval",
    "by",
    "f-DP bound",
    "independent",
    "Steinke",
    "noise test",
    "claim",
)
NOTES = """\
Caught: runs whose lower bound exceeds the claim (noise that repeats: runs that fail the noise
test); without a bug, false alarms, at most 5 % of runs. f-DP bound, independent, Steinke: mean
lower bound on epsilon by 200 guesses, by taking each canary for a trial of its own, and by the
one-run bound for any mechanism, which cannot exceed 4.17 with 200 guesses. Noise test: runs in
which the noise repeats or is smaller than claimed. Canaries join after clipping: whether rows are
clipped is asked of the weighting, not seen. Too much noise is invisible to every audit of privacy;
look for it in the quality of the model."""


def self_test(
    loop: str | None = None,
    runs: int = 5,
    seed: int = 0,
    delta: float = 1e-5,
    alpha: float = 0.05,
) -> None:
    """Plants one bug at a time in a loop, prints what the audit caught, then judges the loop.

    Args:
        loop: module:function, (engine factory, dataset, seed) -> released updates [T, d]; a small
            loop of our own if not given.
        runs: for each bug.
        seed: of all runs.
        delta: at which epsilon is claimed and bounded.
        alpha: failure probability of each bound and each noise test in the table. The exit code
            rests on one run more, which gives half of it to its bound and half to its noise test.

    Raises:
        Usage: a loop that cannot be loaded or tested.
        Contradicted: the loop's own lower bound exceeds what it claims, or its noise is not fresh.
        RuntimeError: the audit missed a bug.
    """
    try:
        design = Design(delta=delta, alpha=alpha)
        if runs < 1 or seed < 0:
            raise ValueError(f"found {runs} runs and seed {seed}; expected runs >= 1, seed >= 0")
    except ValueError as error:
        raise Usage(str(error)) from error
    named = loop or f"{train.__module__}:{train.__name__}"
    run = _guarded(train if loop is None else _loaded(loop), named)
    own = _own(run, named, records(), seed, design)
    rows = table(run, records(), BUGS, runs, seed, design)
    print(tabulate(cells(rows), HEADERS, disable_numparse=True), NOTES, sep="\n\n", end="\n\n")
    print(f"{named}: {_told(own)}")
    if own.exceeds or own.stale:
        raise Contradicted(f"{named} does not keep what it claims: {_told(own)}")
    if missed := [row.case.name for row in rows if row.missed]:
        raise RuntimeError(
            f"the audit misses what it must catch in this loop: {', '.join(missed)}. Look at the "
            "ceiling and the mean bounds: a claim of large or tiny epsilon leaves it no power."
        )


def table(
    loop: Loop, dataset: Dataset[Any], bugs: Sequence[Bug], runs: int, seed: int, design: Design
) -> list[Row]:
    """Returns the verdicts on all runs of a loop under each bug; raises Usage as `self_test`."""
    rows = []
    with tqdm(total=len(bugs), unit="bug", disable=None) as bar:
        for number, bug in enumerate(bugs):
            case = _case(bug, design)
            try:
                rows.append(
                    trial(loop, dataset, case, runs=runs, seed=seed + number, design=design)
                )
            except ValueError as error:
                raise Usage(f"with the planted bug {bug.name!r}: {error}") from error
            bar.update()
    return rows


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the table's body."""
    return [
        [
            row.case.name,
            f"{row.caught} of {row.runs}",
            "{:.2f} to {:.2f}".format(*row.interval),
            {"nothing": "-"}.get(row.case.found_by, row.case.found_by),
            f"{row.mean('bound'):.2f}",
            f"{row.mean('trials'):.2f}",
            f"{row.mean('steinke'):.2f}",
            f"{row.stale} of {row.runs}",
            f"{row.verdicts[0].claim.epsilon:.2f}",
        ]
        for row in rows
    ]


def _case(bug: Bug, design: Design) -> Case:
    return Case(bug.name, lambda seed: Factory(bug, seed, CANARIES, design.delta), bug.found_by)


def _own(loop: Loop, named: str, dataset: Dataset[Any], seed: int, design: Design) -> Verdict:
    """Returns the verdict on the loop as it is; raises Usage if it cannot be judged."""
    try:
        verdict = once(loop, dataset, _case(NONE, design), seed, shared(design))
    except ValueError as error:
        raise Usage(f"{named}: {error}") from error
    claim, ceiling = verdict.claim.epsilon, verdict.bound.ceiling
    if claim >= ceiling:
        raise Usage(
            f"{named} claims epsilon {claim:.3g}, and the lower bound of {CANARIES} canaries can "
            f"be {ceiling:.3g} at most: nothing could contradict it. Test fewer steps, or more "
            "noise."
        )
    return verdict


def _told(verdict: Verdict) -> str:
    claim, relation = verdict.claim, "exceeds" if verdict.exceeds else "is within"
    noise = "repeats or is smaller than claimed" if verdict.stale else "is fresh"
    return (
        f"lower bound {verdict.bound.epsilon:.3g} ({verdict.bound.method}) {relation} the claimed "
        f"epsilon {claim.epsilon:.3g} (q = {claim.rate:.3g}, noise {claim.noise_multiplier:.3g}, "
        f"{claim.steps} steps); the noise {noise} (p = {verdict.repeated:.2g}); each at level "
        f"{verdict.alpha:g}"
    )


def _loaded(name: str) -> Loop:
    """Returns a user's function.

    Raises:
        Usage: there is none of this name.
    """
    module, _, function = name.partition(":")
    if not (module and function):
        raise Usage(f"--loop {name!r}: expected module:function.")
    if sys.path[:1] != [here := os.getcwd()]:
        sys.path.insert(0, here)  # first, since installed packages share names such as benchmarks
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # a user's code may raise anything
        told = f"{type(error).__name__}: {error}"
        raise Usage(f"--loop {name!r} cannot be loaded: {told}") from error
    if not callable(found):
        raise Usage(f"--loop {name!r} is a {type(found).__name__}: expected a function.")
    loop: Loop = found
    return loop


def _guarded(loop: Loop, named: str) -> Loop:
    """Returns the loop; whatever it raises becomes Usage."""

    def guarded(factory: Callable[[], Any], dataset: Any, seed: int) -> Any:
        try:
            return loop(factory, dataset, seed)
        except Exception as error:  # a user's code may raise anything
            told = f"{type(error).__name__}: {error}"
            raise Usage(f"the loop {named} failed: {told}") from error

    return guarded
