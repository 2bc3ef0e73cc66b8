"""Paced batches beside fixed ones of their mean size."""

from __future__ import annotations

import json

import pytest

from benchmarks import pacing_comparison
from benchmarks.pacing_comparison import Sizes, fixed_batch, growth, main, thirds
from reports.summary import csv_text


def slow_thirds(sizes: list[float]) -> tuple[float, float]:
    total, seen, early, late = sum(sizes), 0.0, [], []
    for size in sizes:
        if 3 * seen < total:
            early.append(size)
        if 3 * seen >= 2 * total:
            late.append(size)
        seen += size
    late = late or [sizes[-1]]
    return sum(early) / len(early), sum(late) / len(late)


@pytest.mark.parametrize(
    "sizes",
    [[4, 4, 4], [2, 2, 2, 8, 8, 16, 16], [1, 1, 100], [30, 1, 1, 1], [1, 2] * 9, [*range(1, 20)]],
)
def test_thirds_of_the_samples(sizes):
    assert thirds(sizes) == pytest.approx(slow_thirds(sizes))


def test_growth_is_told_with_its_interval():
    told = growth([Sizes(10.0, 12.0), Sizes(11.0, 10.0), Sizes(12.0, 14.0)])
    assert "update: 11.00 [8.52, 13.48] in the first third" in told
    assert "12.00 [7.03, 16.97] in the last, a difference of 1.00 [-3.30, 5.30]." in told


def test_too_few_updates():
    with pytest.raises(ValueError, match="2 updates: expected at least 3"):
        thirds([1.0, 2.0])


def test_the_fixed_batch_is_the_mean_over_seeds():
    rows = [{"mean_batch": 40.0, "updates": 3}, {"mean_batch": 53.2, "updates": 2}]
    assert fixed_batch(rows) == 47
    with pytest.raises(ValueError, match="has made no update"):
        fixed_batch([*rows, {"updates": 0}])


def test_both_arms_are_audits(tmp_path, monkeypatch, capsys):
    asked = []

    def audit(words: list[str]) -> int:
        options = dict(zip(words[1::2], words[2::2], strict=True))
        asked.append(options)
        paced = options["--pacing"] != "none"
        folder = tmp_path / options["--store"].rpartition("/")[2]
        (folder / "cells").mkdir(parents=True)
        rows = []
        for seed in range(2):
            row = {"task": "t", "clip": "none", "seed": seed, "lr": 0.1, "acc": 0.5 + seed / 10}
            row |= {"pacing": options["--pacing"], "auc": 0.6 if paced else 0.5}
            row |= {"mean_batch": 23.0 + seed, "updates": 4} if paced else {}
            rows.append(row)
            for kind in ("search", "audit"):
                series = {"pace/samples": [(1, 8), (2, 8), (3, 32), (4, 48)]} if paced else {}
                cell = {"config": {"kind": kind}, "result": {"series": series}}
                if kind == "search":
                    cell["result"]["series"] = {}
                (folder / "cells" / f"{kind}{seed}.json").write_text(json.dumps(cell))
        (folder / "summary.csv").write_text(csv_text(rows))
        return 0

    monkeypatch.setattr(pacing_comparison, "dpclip", audit)
    words = ["--task", "digits", "--epochs", "2", "--micro", "8", "--alphas", "1.2:64"]
    main([*words, "--seeds", "2", "--store", f"{tmp_path}"])
    first, second = asked
    assert (first["--pacing"], first["--batch_size"]) == ("angle:1.2:64", "8")
    assert (second["--pacing"], second["--batch_size"]) == ("none", "24")
    shared = first.keys() - {"--pacing", "--batch_size", "--store"}
    assert {k: first[k] for k in shared} == {k: second[k] for k in shared}
    assert (first["--epochs"], first["--search"], "--data" in first) == ("2", "true", False)
    assert (first["--grouping"], first["--weighting"]) == ("sample", "clip:1e9")
    printed = capsys.readouterr().out
    assert "| batches of 24 | 2       | 0.1  | fixed" in printed
    assert "| angle 1.2:64  | 2       | 0.1  | 24 " in printed
    assert "update: 16.00 [16.00, 16.00] in the first third of the samples, 48.00" in printed
    assert "a difference of 32.00 [32.00, 32.00]." in printed


def test_a_failed_audit_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pacing_comparison, "dpclip", lambda words: 3)
    with pytest.raises(SystemExit) as left:
        main(["--task", "digits", "--store", f"{tmp_path}"])
    assert left.value.code == 3


@pytest.mark.slow
def test_on_digits(tmp_path, capsys):
    words = ["--task", "digits", "--epochs", "1", "--micro", "8", "--seeds", "1", "--workers", "0"]
    main([*words, "--alphas", "1.1:64", "--store", f"{tmp_path}"])
    printed = capsys.readouterr().out
    assert "| angle 1.1:64 " in printed and "Samples of an update: " in printed
