"""What is decoded where only some recordings are used."""

from pathlib import Path

import numpy as np
import pytest

from audits.tasks.speech import audio
from audits.tasks.speech.corpus import Corpus
from audits.tasks.speech.division import corpus_of
from audits.tasks.speech.parting import parted
from audits.tasks.speech.recordings import read
from tests.audits.tasks.speech import sounds

pytest.importorskip("soundfile")

MANY, SILENT = 40, (3, 4, 11, 25)
PARTS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty recordings; what is wrong with four is only known when they are decoded."""
    lines = ["path\ttext"]
    for i in range(MANY):
        loud = sounds.tone(300 + 20 * i, 0.1)
        sounds.written(tmp_path / f"{i}.wav", loud * (i not in SILENT))
        lines.append(f"{i}.wav\tword {chr(97 + i % 26)}")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded."""
    names: list[str] = []
    whole = audio.waveform

    def waveform(file: Path) -> object:
        names.append(file.name)
        return whole(file)

    monkeypatch.setattr(audio, "waveform", waveform)
    return names


def same(one: Corpus, two: Corpus) -> None:
    for name in PARTS:
        left, right = getattr(one, name), getattr(two, name)
        assert [text for _, text in left] == [text for _, text in right]
        for (a, _), (b, _) in zip(left, right, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("limit", [1, 5, 12, MANY])
def test_a_limit_changes_what_is_decoded_and_nothing_else(
    folder: Path, decoded: list[str], limit: int
) -> None:
    whole = read(folder, bad="skip")
    assert len(decoded) == MANY
    decoded.clear()
    few = read(folder, bad="skip", limit=limit)
    same(corpus_of(few, limit), corpus_of(whole, limit))
    assert len(corpus_of(few, limit).train) == min(limit, len(corpus_of(whole).train))
    assert len(few.items) <= limit + 8
    assert len(decoded) == len(set(decoded)) <= limit + 8 + len(SILENT)
    assert few.facts["recordings"] == f"{len(few.items)} used of 40 in the data"


def test_bad_recordings_that_are_not_used_are_not_found(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"4 of 40 recordings.*none of them a sound"):
        read(folder)
    with pytest.raises(ValueError, match=r"4 of 40 recordings.*none of them a sound"):
        read(folder, limit=MANY)
    for i in SILENT:
        sounds.written(folder / f"{i}.wav", sounds.tone(300, 0.1))
    unused = parted({f"{i}.wav": "" for i in range(MANY)})["train"][6]
    sounds.written(folder / unused, 0 * sounds.tone(300, 0.1))
    assert "skipped" not in read(folder, limit=6).facts
    with pytest.raises(ValueError, match=r"1 of 40 recordings"):
        read(folder, limit=7)


def test_spoken_digits_are_decoded_whole(tmp_path: Path, decoded: list[str]) -> None:
    for i in range(15):
        sounds.written(tmp_path / f"{i % 3}_ann_{i}.wav", sounds.tone(300 + 20 * i, 0.1))
    assert len(read(tmp_path, limit=1).items) == len(decoded) == 15


def test_limits_that_nothing_is_left_of(folder: Path) -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        read(folder, limit=0)
    lines = (folder / "manifest.tsv").read_text().splitlines()
    (folder / "few.tsv").write_text("\n".join(lines[:9]) + "\n")
    with pytest.raises(ValueError, match="Found 8 recordings to train on"):
        read(folder / "few.tsv", limit=2)
