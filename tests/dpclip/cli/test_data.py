"""Whole commands on data by path."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.audits.tasks import folders

Call = Callable[..., Any]


def test_reuters_is_trained(call: Call, store: Path, tmp_path: Path) -> None:
    words = ("--task", "reuters", "--data", str(folders.reuters(tmp_path / "news")))
    ended = call("train", *words, "--epochs", "1", "--store", str(store))
    assert (ended.code, ended.err) == (0, "")
    assert "sample clip:1: acc " in ended.out
    assert len(list(store.glob("*.safetensors"))) == 1


def test_images_are_audited(call: Call, store: Path, tmp_path: Path) -> None:
    words = ["audit", "--task", "images", "--data", str(folders.images(tmp_path / "pictures"))]
    words += ["--families", "mislabelled", "--grouping", "none,sample", "--canaries", "2"]
    words += ["--references", "10", "--epochs", "1", "--limit", "60", "--workers", "0"]
    ended = call(*words, "--store", str(store))
    assert ended.code == 0, ended.err
    table = pd.read_csv(store / "summary.csv")
    assert list(table["clip"]) == ["none", "sample"]
    assert table["acc"].between(0, 1).all()
    assert table["n_in"].add(table["n_out"]).eq(10).all()


@pytest.mark.slow
def test_translation_is_audited_with_all_it_measures(
    call: Call, store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sacrebleu")
    words = ["audit", "--task", "translation", "--data", str(folders.pairs(tmp_path / "pairs"))]
    words += ["--grouping", "sample", "--canaries", "2", "--references", "10", "--epochs", "1"]
    ended = call(*words, "--workers", "0", "--store", str(store))
    assert ended.code == 0, ended.err
    (row,) = pd.read_csv(store / "summary.csv").to_dict("records")
    assert 0 <= row["bleu"] <= 100
    assert 0 <= row["chrf"] <= 100
    assert row["test_loss"] > 0
    assert "BLEU" in (store / "report.md").read_text()


@pytest.mark.parametrize("missing", ["tokenizers", "sacrebleu"])
def test_a_missing_extra_is_told_and_nothing_is_made(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sacrebleu")
    words = ("--task", "translation", "--data", str(folders.pairs(tmp_path / "pairs")))
    monkeypatch.setitem(sys.modules, missing, None)
    ended = call("train", *words, "--store", "new")
    assert ended.code == 4
    assert ended.err.endswith("pip install 'dpclip[translation]'\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["train", "audit"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--task", "reuters"), "give its path, --data PATH"),
        (("--task", "reuters", "--data", "nowhere"), "nowhere does not exist"),
        (("--data", "nowhere"), "Task digits reads no data by path"),
        (("--task", "images", "--data", "x", "--limit", "0"), "--limit 0: expected at least 1"),
    ],
)
def test_what_cannot_be_read_costs_one_sentence_and_no_store(
    call: Call, tmp_path: Path, command: str, words: tuple[str, ...], told: str
) -> None:
    ended = call(command, *words, "--store", "new")
    assert ended.code == 2
    assert told in ended.err
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
