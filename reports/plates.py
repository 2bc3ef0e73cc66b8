"""Each picture of an audit with the sentence that says how to read it, or why it is missing."""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from reports.claims import claims_epsilon
from reports.pools import Pool
from reports.rows import TIERS, Row, number
from reports.speeds import by_speed
from reports.table import exposure_of, lines, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.roc_figure import Curve

Series: TypeAlias = Mapping[str, Sequence[tuple[int, float]]]
Draw: TypeAlias = "Callable[[Sequence[Pool]], Figure]"

REPETITION, EXPOSURE, ROC, BOUND = "repetition.png", "exposure.png", "roc.png", "bound.png"
SPEED, ERRORS = "speed.png", "errors.png"
GROUPS, TRAINING = "groups.png", "training.png"
NAMES = (REPETITION, GROUPS, SPEED, ERRORS, EXPOSURE, ROC, BOUND, TRAINING)
CONFIDENT = 0.05  # failure probability of what is said about false positive rates


@dataclass(frozen=True)
class Plate:
    """A picture, ready to be stored.

    Attributes:
        name: Its file.
        caption: What it is, in a few words.
        sentence: How to read it, and what cannot be read from it.
        png: The file's content.
    """

    name: str
    caption: str
    sentence: str
    png: bytes


def png(figure: "Figure") -> bytes:
    """Returns the figure as a PNG, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def repetition(rows: Sequence[Row], held: Sequence[Pool]) -> Plate | str:
    """Returns exposure by how often a canary was inserted."""
    frame = summarize(rows)
    told = lines(frame)
    tiers = {t for line in told for t in TIERS if not math.isnan(exposure_of(line, t).mean)}
    if len(tiers) < 2:
        return f"{REPETITION} is left out: exposure was measured at {len(tiers)} repetition(s)."
    from reports.repetition_figure import exposure_by_repetition

    single = any(number(line, "seeds") == 1 for line in told)
    over = "over the canaries of a run" if held else "at 1x only"
    return Plate(
        REPETITION,
        "Exposure by how often a canary was inserted",
        "Mean exposure by how often a canary was inserted. Bars are 95 % intervals over seeds"
        + (f", for arms with one seed {over}." if single else ".")
        + " At the ceiling every canary beats all its references, and more would not show.",
        png(exposure_by_repetition(frame, {(pool.task, pool.name): pool for pool in held})),
    )


def group_sizes(rows: Sequence[Row], held: Sequence[Pool]) -> Plate | str:
    """Returns exposure by the size of the groups that are clipped."""
    from reports.group_figure import exposure_by_group, null_bands, sizes

    frame = summarize(rows)
    if not sizes(frame):
        return f"{GROUPS} is left out: no rule was run at two group sizes."
    bands = null_bands(held)
    band = (
        " In the grey band lies the mean of as many canaries that were never trained on, with 95 % "
        "probability for one arm at a time."
        if bands
        else " No band is drawn around the null, as no table of canaries came with the rows."
    )
    return Plate(
        GROUPS,
        "Exposure by the size of the groups that are clipped",
        "Mean exposure of canaries inserted once against group size, a line for each rule; colour "
        "is the granularity. Bars are 95 % intervals as in the table; the black line is training "
        f"without clipping, with its interval.{band}",
        png(exposure_by_group(frame, bands)),
    )


def training_curve(rows: Sequence[Row], series: Sequence[Series]) -> Iterator[Plate]:
    """Yields the picture of training, none where nothing was recorded."""
    from reports.training_figure import training, training_curves

    curves = training_curves(rows, series) if series else {}
    if not curves:
        return
    yield Plate(
        TRAINING,
        "Training, step by step",
        "Means over seeds. Epsilon is drawn for arms that claim one. Clipped groups are those of "
        "single steps, as they were when a point was recorded.",
        png(training(curves)),
    )


def speeds(rows: Sequence[Row], canaries: Sequence[Sequence[Row]]) -> Iterator[Plate]:
    """Yields the pictures of speed, none where canaries have but one."""
    held = by_speed(rows, canaries) if canaries else []
    if not held:
        return
    from reports.speed_figure import errors_by_speed, exposure_by_speed

    over = "seeds" if min(arm.seeds for arm in held) > 1 else "the canaries of a run"
    ceilings = {number(row, "exp_ceiling") for row in rows}
    ceiling = ceilings.pop() if len(ceilings) == 1 else math.nan
    yield Plate(
        SPEED,
        "Exposure by the canaries' speed",
        "Mean exposure of canaries by how much they were sped up, each among references of its own "
        f"speed; a line for each number of times inserted. Bars are 95 % intervals over {over}.",
        png(exposure_by_speed(held, ceiling)),
    )
    if any(arm.errors_out for arm in held):
        yield Plate(
            ERRORS,
            "Errors in the canaries' transcripts",
            "Character error rate of canaries that were trained on (dashed, all repetitions "
            "together) and of their held-out twins (lines). A right transcript of a canary whose "
            "twins cannot be transcribed is memory; where twins are transcribed as well, it is "
            f"skill. Bars are 95 % intervals over {over}.",
            png(errors_by_speed(held)),
        )


def single_canaries(
    held: Sequence[Pool], histogram: Draw, curve: "Curve | None" = None
) -> tuple[Plate | str, Plate | str]:
    """Returns the two pictures that are made from single canaries."""
    if not held:
        why = "no table of canaries came with the rows"
        return f"{EXPOSURE} is left out: {why}.", f"{ROC} is left out: {why}."
    every = [bits for pool in held for bits in (*pool.once, *pool.held_out)]
    wrong = sum(not math.isfinite(bits) for bits in every)
    if wrong:
        why = f"{wrong} of {len(every)} canaries have no finite exposure"
        return f"{EXPOSURE} is left out: {why}.", f"{ROC} is left out: {why}."
    return _exposure(held, histogram), _roc(held, curve)


def _exposure(held: Sequence[Pool], histogram: Draw) -> Plate | str:
    if not any(pool.once for pool in held):
        return f"{EXPOSURE} is left out: no canary was inserted once."
    notes = [
        "Canaries inserted once (filled), held-out canaries (hatched), and the law of a canary "
        "that was never trained on (black), in the same bins."
    ]
    if max(pool.seeds for pool in held) > 1:
        notes.append("Seeds are pooled; the mean and its interval are those over seeds.")
    if any(pool.references is None for pool in held if pool.once):
        notes.append(
            "The law is the one for many references, where their number differs between families "
            "or is not recorded."
        )
    return Plate(
        EXPOSURE,
        "Exposure of single canaries beside the null",
        " ".join(notes),
        png(histogram(held)),
    )


def _roc(held: Sequence[Pool], curve: "Curve | None") -> Plate | str:
    from reports.roc_figure import curves_of, roc_figure

    curves = [curve] if curve else curves_of(held)
    if not curves:
        return f"{ROC} is left out: no arm has both canaries inserted once and held-out ones."
    fewest = min(drawn.non_members for drawn in curves)
    rate = 1 - CONFIDENT ** (1 / fewest)
    by = "" if curve else " by their exposure"
    few = "as few as " if len({drawn.non_members for drawn in curves}) > 1 else ""
    return Plate(
        ROC,
        "Telling inserted canaries from held-out ones",
        f"Inserted canaries told from held-out ones{by}. The band is 95 % for one threshold at a "
        "time. Left of the dotted line stands what is reached without a false positive: with "
        f"{few}{fewest} non-members that allows for a rate of up to {rate:.2g} (95 %), and nothing "
        "smaller can be claimed.",
        png(roc_figure(curves)),
    )


def bounds(rows: Sequence[Row]) -> Plate | str:
    """Returns lower bounds on epsilon against the claims."""
    from reports.bound_figure import bound_against_claim, bounded

    held = bounded(rows)
    if not held:
        return f"{BOUND} is left out: no run has a lower bound on epsilon."
    without = sum(not math.isfinite(number(row, "eps_lb_ceiling")) for row in held)
    notes = [
        "Lower bounds on epsilon by the audit, a point per run.",
        "In the grey region a bound contradicts its claim." if _any_claim(held) else "",
        "A dash is what a perfect attack of that design could have shown; where it lies below the "
        "claim (hollow points), nothing could have contradicted it." * (without < len(held)),
        f"For {without} of {len(held)} runs that ceiling is not recorded." if without else "",
        f"{len(rows) - len(held)} runs have no bound." if len(held) < len(rows) else "",
    ]
    return Plate(
        BOUND,
        "Lower bounds on epsilon against the claims",
        " ".join(note for note in notes if note),
        png(bound_against_claim(rows)),
    )


def _any_claim(rows: Sequence[Row]) -> bool:
    return any(claims_epsilon(row) for row in rows)


def sweep_histogram(held: Sequence[Pool]) -> "Figure":
    """Returns the exposures of single canaries, a panel for each arm."""
    from reports.exposure_figures import exposure_histograms

    return exposure_histograms(held)


def run_histogram(held: Sequence[Pool]) -> "Figure":
    """Returns the exposures of the canaries of one run."""
    from reports.arms import COLORS
    from reports.exposure_figures import exposure_histogram

    (pool,) = held
    return exposure_histogram(
        pool.once,
        pool.ceiling,
        pool.held_out,
        pool.references,
        pool.means[1],
        color=COLORS[pool.clip],
    )
