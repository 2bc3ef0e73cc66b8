"""The page of planted bugs."""

from __future__ import annotations

from benchmarks.self_test import main
from dpclip.cli.planted_bugs import BUGS


def test_the_page_is_written_with_its_command(tmp_path):
    page = tmp_path / "a folder" / "bugs.md"
    main(["--runs", "1", "--seed", "3", "--out", str(page)])
    text = page.read_text()
    assert f"python -m benchmarks.self_test --runs 1 --seed 3 --out {page}\n" in text
    assert "16 steps, noise multiplier 4, per-sample clipping: mu = 1" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert all("of 1" in lines[bug.name] for bug in BUGS)
    assert "1 of 1" in lines["noise / sqrt(8)"] and "0 of 1" in lines["none"]
