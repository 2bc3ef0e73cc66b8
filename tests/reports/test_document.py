import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.caveats import caveats
from reports.document import Provenance, report_html, report_markdown, write
from reports.rows import Row
from reports.sentence import headline
from reports.summary import read
from reports.table import markdown, summarize

PROVENANCE = Provenance(
    command=["dpclip", "audit", "--grouping", "none,core:8", "--data", "my data"],
    configuration={"data": "1,300 digits"},
    learning_rates=(0.05, 0.2, 0.8),
    chosen_by="validation accuracy of seed 0",
    skipped=["core 8, min, sigma 1: no local bound"],
)


def test_the_report_answers_first_and_tells_how_to_repeat_it(sweep: list[Row]) -> None:
    report = report_markdown(sweep, PROVENANCE)
    frame = summarize(sweep)
    parts = [
        "Does clipping gradients per sample, per micro-batch and per core reduce",
        "what does it cost in accuracy?",
        f"**{headline(frame)}**",
        "](tradeoff.png)",
        markdown(frame),
        "## What may be claimed",
        "sample C=0.3 sigma=0.5: epsilon 8.1 at delta 1e-05",
        "## Remarks",
        *caveats(sweep, PROVENANCE.skipped),
        "## How it was measured",
        "Seeds per arm: 3.",
        "for every arm the best of 3 (0.05, 0.2, 0.8), chosen by validation accuracy of seed 0",
        "- data: 1,300 digits",
        "dpclip audit --grouping none,core:8 --data 'my data'",
    ]
    places = [report.index(part) for part in parts]
    assert places == sorted(places)


def test_no_learning_rate_search_is_said(sweep: list[Row]) -> None:
    assert "Learning rate: no search" in report_markdown(sweep, Provenance(command="dpclip demo"))
    unknown = Provenance(command="dpclip demo", learning_rates=None)
    assert "no search" not in report_markdown(sweep, unknown)
    assert "Learning rate: how it was chosen is not the same" in report_markdown(sweep, unknown)


def test_the_page_holds_its_picture(sweep: list[Row]) -> None:
    page = report_html(sweep, PROVENANCE, b"png")
    assert re.search(r'<img [^>]*src="data:image/png;base64,cG5n"', page)
    assert page.count("<table>") == 2


def test_all_files_are_written_and_read_back(tmp_path: Path, sweep: list[Row]) -> None:
    paths = write(tmp_path / "new" / "store", sweep, PROVENANCE)
    names = ["bound.png", "groups.png", "provenance.json", "repetition.png", "report.html"]
    names += ["report.md", "summary.csv", "tradeoff.png"]
    assert sorted(path.name for path in paths) == names
    assert sorted(os.listdir(tmp_path / "new" / "store")) == names
    assert paths[0].parent.joinpath("tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert len(read(tmp_path / "new" / "store")) == len(sweep)


def test_pictures_of_canaries_are_beside_the_report_and_in_it(
    tmp_path: Path, sweep: list[Row], canaries: Callable[..., list[Row]]
) -> None:
    paths = write(tmp_path, sweep, PROVENANCE, canaries=[canaries() for _ in sweep])
    pictures = [path.name for path in paths if path.suffix == ".png"]
    others = ("exposure.png", "roc.png", "bound.png")
    assert pictures == ["tradeoff.png", "repetition.png", "groups.png", *others]
    report = (tmp_path / "report.md").read_text()
    assert re.findall(r"!\[[^]]+\]\(([a-z]+\.png)\)\n\n\S", report) == pictures
    page = (tmp_path / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 6
    assert "left out" not in report


def test_without_canaries_the_report_says_what_is_missing(tmp_path: Path, sweep: list[Row]) -> None:
    write(tmp_path, sweep, PROVENANCE)
    report = (tmp_path / "report.md").read_text()
    for name in ("exposure.png", "roc.png"):
        assert f"- {name} is left out: no table of canaries came with the rows." in report
        assert f"({name})" not in report
        assert name in (tmp_path / "report.html").read_text()


def test_pictures_of_an_earlier_report_do_not_stay(
    tmp_path: Path, sweep: list[Row], canaries: Callable[..., list[Row]]
) -> None:
    write(tmp_path, sweep, PROVENANCE, canaries=[canaries() for _ in sweep])
    (tmp_path / "mine.png").write_bytes(b"")
    write(tmp_path, sweep, PROVENANCE)
    assert not (tmp_path / "roc.png").exists()
    assert (tmp_path / "bound.png").exists()
    assert (tmp_path / "mine.png").exists()


def test_tables_that_do_not_fit_the_rows_leave_nothing_behind(
    tmp_path: Path, sweep: list[Row], canaries: Callable[..., list[Row]]
) -> None:
    with pytest.raises(ValueError, match="24 rows and 1 tables of canaries"):
        write(tmp_path, sweep, PROVENANCE, canaries=[canaries()])
    assert list(tmp_path.iterdir()) == []


def test_writing_again_gives_the_same_bytes(tmp_path: Path, sweep: list[Row]) -> None:
    first = {path.name: path.read_bytes() for path in write(tmp_path, sweep, PROVENANCE)}
    rows = read(tmp_path)
    assert {path.name: path.read_bytes() for path in write(tmp_path, rows, PROVENANCE)} == first


def test_a_failure_leaves_the_earlier_files_whole(
    tmp_path: Path, sweep: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, sweep, PROVENANCE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path, sweep[:3], PROVENANCE)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_file_is_replaced_but_by_renaming(
    tmp_path: Path, sweep: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, sweep, PROVENANCE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, sweep[:3], PROVENANCE)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_that_cannot_be_summarized_leave_nothing_behind(
    tmp_path: Path, sweep: list[Row]
) -> None:
    broken: list[Any] = [*sweep, sweep[0]]
    with pytest.raises(ValueError, match="more than once"):
        write(tmp_path, broken, PROVENANCE)
    assert list(tmp_path.iterdir()) == []
