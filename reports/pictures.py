"""The pictures of an audit: which there are, for a sweep and for a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.blocks import Block, Bullets, Heading, Paragraph, Picture
from reports.plates import (
    Plate,
    Series,
    bounds,
    group_sizes,
    repetition,
    run_histogram,
    single_canaries,
    speeds,
    sweep_histogram,
    training_curve,
)
from reports.pools import pools
from reports.rows import Row

if TYPE_CHECKING:
    from reports.roc_figure import Curve


@dataclass(frozen=True)
class Gallery:
    """The pictures that could be drawn, and for each other one a sentence why not."""

    plates: tuple[Plate, ...] = ()
    missing: tuple[str, ...] = ()


def gallery(
    rows: Sequence[Row],
    canaries: Sequence[Sequence[Row]] = (),
    series: Sequence[Series] = (),
) -> Gallery:
    """Returns the pictures of a sweep: by repetition, single canaries, ROC, bounds and claims.

    Args:
        rows: One flat dict per run.
        canaries: For each row its canaries, each a flat dict with repetitions, inserted and
            exposure; none at all where only rows are at hand.
        series: For each row name -> (step, value) pairs; none at all where none are at hand.

    Raises:
        ValueError: If tables or series were given, and not one for each row, or a canary lacks a
            column.
    """
    held = pools(rows, canaries) if canaries else []
    return _together(
        repetition(rows, held),
        group_sizes(rows, held),
        *speeds(rows, canaries),
        *single_canaries(held, sweep_histogram),
        bounds(rows),
        *training_curve(rows, series),
    )


def run_gallery(
    row: Row,
    canaries: Sequence[Row],
    curve: "Curve | None" = None,
    series: Series | None = None,
) -> Gallery:
    """Returns the pictures of one run: its canaries, by repetition, ROC, training.

    Args:
        row: The run's flat dict.
        canaries: Its canaries.
        curve: The ROC curve of another attack than ranking canaries by exposure.
        series: Name -> (step, value) pairs; None where none are at hand.

    Raises:
        ValueError: If a canary lacks a column.
    """
    held = pools([row], [canaries])
    return _together(
        repetition([row], held),
        *speeds([row], [canaries]),
        *single_canaries(held, run_histogram, curve),
        *training_curve([row], [series] if series else []),
    )


def shown(found: Gallery) -> list[Block]:
    """Returns the pictures as blocks of a report, each with its sentence; then what is missing."""
    blocks: list[Block] = [Heading("The audit in pictures")]
    for plate in found.plates:
        blocks += [Picture(plate.name, plate.caption), Paragraph(plate.sentence)]
    return [*blocks, *([Bullets(found.missing)] if found.missing else [])]


def _together(*found: Plate | str) -> Gallery:
    plates = tuple(one for one in found if isinstance(one, Plate))
    return Gallery(plates, tuple(dict.fromkeys(one for one in found if isinstance(one, str))))
