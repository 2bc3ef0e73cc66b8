"""The report of a sweep: first its parts, then the text, then the files."""

import io
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from reports.arms import GRANULARITIES
from reports.blocks import (
    Block,
    Bullets,
    Code,
    Grid,
    Heading,
    Paragraph,
    Picture,
    to_html,
    to_markdown,
)
from reports.caveats import caveats
from reports.claims import claims
from reports.rows import Row, text, utility_named
from reports.sentence import headline
from reports.summary import NAME as SUMMARY
from reports.summary import csv_text
from reports.table import details, html, lines, markdown, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = "tradeoff.png"
FILES = (SUMMARY, "report.md", "report.html", PICTURE)


@dataclass(frozen=True)
class Provenance:
    """How the rows came about: what a reader needs in order to judge and repeat them.

    Attributes:
        command: What repeats the sweep, as a shell would take it, or its words.
        configuration: What was the same for all runs.
        learning_rates: The learning rates that were tried for each arm; empty for no search.
        chosen_by: What picked one of them.
        skipped: Combinations that were asked for and not run, each with its reason.
    """

    command: str | Sequence[str]
    configuration: Mapping[str, object] = field(default_factory=dict)
    learning_rates: Sequence[float] = ()
    chosen_by: str = ""
    skipped: Sequence[str] = ()


def report_markdown(rows: Sequence[Row], provenance: Provenance) -> str:
    """Returns report.md: question, answer, picture, table, claims, remarks, method, command."""
    return to_markdown(parts(rows, provenance))


def report_html(rows: Sequence[Row], provenance: Provenance, picture: bytes) -> str:
    """Returns the same report as one HTML page with the picture (a PNG) inlined."""
    return to_html(parts(rows, provenance), {PICTURE: picture})


def write(directory: Path, rows: Sequence[Row], provenance: Provenance) -> list[Path]:
    """Writes summary.csv, report.md, report.html and tradeoff.png, and returns their paths.

    All four are computed before the first is written, and each replaces its predecessor in one
    step, so that an interruption leaves whole files.
    """
    from reports.figures import trade_off

    picture = png(trade_off(summarize(rows)))
    contents = {
        SUMMARY: csv_text(rows).encode(),
        "report.md": report_markdown(rows, provenance).encode(),
        "report.html": report_html(rows, provenance, picture).encode(),
        PICTURE: picture,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        replace(directory / name, content)
    return [directory / name for name in contents]


def png(figure: "Figure") -> bytes:
    """Returns the figure as a PNG, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def replace(path: Path, content: bytes) -> None:
    """Writes the file under another name and renames it, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parts(rows: Sequence[Row], provenance: Provenance) -> list[Block]:
    """Returns the report as blocks, in the order in which they are read."""
    frame = summarize(rows)
    more = Grid(details(frame, "github"), details(frame, "html"))
    return [
        Heading("Memorization and clipping", level=1),
        Paragraph(_question(frame)),
        Paragraph(headline(frame), strong=True),
        Picture(PICTURE, "Utility against the exposure of canaries inserted once"),
        Grid(markdown(frame), html(frame)),
        Heading("What may be claimed"),
        Bullets(claims(lines(frame))),
        Heading("Remarks"),
        Bullets(caveats(rows, provenance.skipped)),
        Heading("Clipping, attack and cost"),
        more,
        Heading("How it was measured"),
        Bullets(_method(frame, provenance)),
        Heading("Run it again"),
        Code(_command(provenance.command)),
    ]


def _question(frame: pd.DataFrame) -> str:
    held = lines(frame)
    words = {"sample": "per sample", "microbatch": "per micro-batch", "core": "per core"}
    used = [words[clip] for clip in GRANULARITIES[1:] if any(text(x, "clip") == clip for x in held)]
    metrics = dict.fromkeys(text(line, "metric") for line in held)
    labels = [utility.label for m in metrics if (utility := utility_named(m))]
    return (
        f"Does clipping gradients {_listed(used) or 'at all'} reduce the memorization of records "
        f"that occur once or a few times, and what does it cost in {_listed(labels) or 'utility'}?"
    )


def _method(frame: pd.DataFrame, provenance: Provenance) -> list[str]:
    seeds = sorted({int(line["seeds"] or 0) for line in lines(frame)})
    span = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return [
        f"Seeds per arm: {span}. Intervals are 95 %: Student's over seeds; with one seed, the 1x "
        "tier's over its canaries and none for the other numbers.",
        "Exposure is in bits; canaries that were never trained on have 1.44 on average.",
        _search(provenance),
        *(f"{key}: {value}" for key, value in provenance.configuration.items()),
    ]


def _search(provenance: Provenance) -> str:
    tried = provenance.learning_rates
    if len(tried) < 2:
        return "Learning rate: no search; every arm used the one it was given."
    by = f", chosen by {provenance.chosen_by}" if provenance.chosen_by else ""
    return (
        f"Learning rate: for every arm the best of {len(tried)} "
        f"({', '.join(f'{rate:g}' for rate in tried)}){by}."
    )


def _command(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(([", ".join(words[:-1])] if len(words) > 1 else []) + list(words[-1:]))
