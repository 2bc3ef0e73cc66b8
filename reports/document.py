"""The report of a sweep: first its parts, then the text, then the files."""

import os
from collections.abc import Sequence
from pathlib import Path

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
from reports.pictures import Gallery, gallery, shown
from reports.plates import NAMES, Series, png
from reports.provenance import NAME as PROVENANCE
from reports.provenance import Provenance, command_text, json_text, method
from reports.rows import Row, text, utility_named
from reports.sentence import headline
from reports.summary import NAME as SUMMARY
from reports.summary import csv_text
from reports.table import details, html, lines, markdown, summarize

__all__ = ["Provenance", "parts", "png", "replace", "report_html", "report_markdown", "write"]

PICTURE = "tradeoff.png"


def report_markdown(
    rows: Sequence[Row], provenance: Provenance, found: Gallery | None = None
) -> str:
    """Returns report.md: question, answer, picture, table, claims, remarks, method, command.

    Args:
        rows: One flat dict per run.
        provenance: How they came about.
        found: The pictures of the audit that lie beside it, with their sentences.
    """
    return to_markdown(parts(rows, provenance, found))


def report_html(
    rows: Sequence[Row], provenance: Provenance, picture: bytes, found: Gallery | None = None
) -> str:
    """Returns the same report as one HTML page with all pictures (PNGs) inlined."""
    plates = {} if found is None else {plate.name: plate.png for plate in found.plates}
    return to_html(parts(rows, provenance, found), {PICTURE: picture, **plates})


def write(
    directory: Path,
    rows: Sequence[Row],
    provenance: Provenance,
    canaries: Sequence[Sequence[Row]] = (),
    series: Sequence[Series] = (),
) -> list[Path]:
    """Writes summary.csv, provenance.json, report.md, report.html, the pictures; returns paths.

    All are computed before the first is written, and each replaces its predecessor in one step,
    so that an interruption leaves whole files. Pictures of an earlier report that this one has not
    are removed last.

    Args:
        directory: Where to, made where it is missing.
        rows: One flat dict per run.
        provenance: How they came about.
        canaries: For each row its canaries, which single canaries and ROC are drawn from.
        series: For each row what was recorded over training.

    Raises:
        ValueError: If tables of canaries or series were given, and not one for each row.
    """
    from reports.figures import trade_off

    picture = png(trade_off(summarize(rows)))
    found = gallery(rows, canaries, series)
    contents = {
        SUMMARY: csv_text(rows).encode(),
        PROVENANCE: json_text(provenance).encode(),
        "report.md": report_markdown(rows, provenance, found).encode(),
        "report.html": report_html(rows, provenance, picture, found).encode(),
        PICTURE: picture,
        **{plate.name: plate.png for plate in found.plates},
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        replace(directory / name, content)
    for name in set(NAMES) - set(contents):
        (directory / name).unlink(missing_ok=True)
    return [directory / name for name in contents]


def replace(path: Path, content: bytes) -> None:
    """Writes the file under another name and renames it, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parts(rows: Sequence[Row], provenance: Provenance, found: Gallery | None = None) -> list[Block]:
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
        *(shown(found) if found else []),
        Heading("Clipping, attack and cost"),
        more,
        Heading("How it was measured"),
        Bullets(_method(frame, provenance)),
        Heading("Run it again"),
        Code(command_text(provenance)),
    ]


def _question(frame: pd.DataFrame) -> str:
    held = lines(frame)
    words = {
        "sample": "per sample",
        "microbatch": "per micro-batch",
        "core": "per core",
        "cluster": "per cluster",
    }
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
        *method(provenance),
    ]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(([", ".join(words[:-1])] if len(words) > 1 else []) + list(words[-1:]))
