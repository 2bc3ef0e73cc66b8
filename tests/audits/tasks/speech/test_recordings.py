from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audits.tasks.speech.recordings import read
from tests.audits.tasks.speech import sounds

pytest.importorskip("soundfile")


def table(folder: Path, rows: list[list[str]], name: str = "manifest.tsv") -> Path:
    (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))
    return folder


def recorded(folder: Path, names: list[str], rate: int = sounds.RATE) -> None:
    for i, name in enumerate(names):
        sounds.written(folder / name, sounds.tone(300 + 100 * i, 0.2, rate), rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings and their manifest."""
    recorded(tmp_path, ["a.flac", "b.wav", "deep/c.flac"])
    rows = [["path", "text"], ["b.wav", "SECOND, one"], ["a.flac", "first"], ["deep/c.flac", "c"]]
    return table(tmp_path, rows)


def test_a_manifest_lists_recordings(folder: Path) -> None:
    found = read(folder)
    assert found.sample_rate == sounds.RATE
    assert [(r.name, r.text) for r in found.items] == [
        ("b.wav", "second one"),
        ("a.flac", "first"),
        ("deep/c.flac", "c"),
    ]
    waveform = found.items[1].waveform
    assert waveform.dtype == np.float32
    assert np.abs(waveform - sounds.tone(300, 0.2)).max() < 1e-3
    assert not found.digits
    assert read(folder / "manifest.tsv").items[0].name == "b.wav"


def test_columns_have_any_order_and_tell_split_and_speaker(tmp_path: Path) -> None:
    recorded(tmp_path, ["a.wav", "b.wav", "c.wav"])
    rows = [["text", "Split", "speaker", "seconds", "path"]]
    splits = ("train-clean-100", "dev-other", "test")
    rows += [["one", split, "s1", "9", f"{n}.wav"] for split, n in zip(splits, "abc", strict=True)]
    table(tmp_path, rows, "own.tsv")
    items = read(tmp_path / "own.tsv").items
    assert [item.split for item in items] == ["train", "validation", "test"]
    assert {item.speaker for item in items} == {"s1"}


def test_quotes_in_a_transcript_are_only_quotes(tmp_path: Path) -> None:
    recorded(tmp_path, ["a.wav", "b.wav"])
    table(tmp_path, [["path", "text"], ["a.wav", '"one'], ["b.wav", "two"]])
    assert [item.text for item in read(tmp_path).items] == ["one", "two"]


def test_librispeech_has_transcripts_beside_the_audio(tmp_path: Path) -> None:
    for part, speaker in (("train-clean-100", "19"), ("dev-clean", "84")):
        chapter = tmp_path / part / speaker / "198"
        recorded(chapter, [f"{speaker}-198-0000.flac", f"{speaker}-198-0001.flac"], 16000)
        (chapter / f"{speaker}-198.trans.txt").write_text(
            f"{speaker}-198-0000 HELLO WORLD\n{speaker}-198-0001 IT'S {part[:3]}\n"
        )
    found = read(tmp_path)
    assert found.sample_rate == 16000
    assert [(r.split, r.speaker, r.text) for r in found.items] == [
        ("validation", "84", "hello world"),
        ("validation", "84", "it's dev"),
        ("train", "19", "hello world"),
        ("train", "19", "it's tra"),
    ]
    assert found.items[0].name == "dev-clean/84/198/84-198-0000.flac"
    assert [r.split for r in read(tmp_path / "dev-clean").items] == ["", ""]


def test_spoken_digits_are_told_by_their_names(tmp_path: Path) -> None:
    names = ["7_ann_0.wav", "7_ann_12.wav", "0_bob_4.flac", "0_bob_5.flac"]
    recorded(tmp_path / "recordings", names)
    found = read(tmp_path)
    assert found.digits
    assert sorted((r.speaker, r.text, r.split) for r in found.items) == [
        ("ann", "seven", "test"),
        ("ann", "seven", "train"),
        ("bob", "zero", "test"),
        ("bob", "zero", "train"),
    ]


def spoil(folder: Path) -> dict[str, str]:
    """Adds a recording of every kind that cannot be used; returns what is to be said of each."""
    loud = sounds.tone(300, 0.2)
    sounds.written(folder / "stereo.wav", np.stack([loud, loud], 1))
    sounds.written(folder / "rate.wav", loud, 16000)
    sounds.written(folder / "none.wav", loud[:0])
    sounds.written(folder / "still.wav", 0 * loud)
    sounds.written(folder / "text.wav", loud)
    sounds.written(folder / "digits.wav", loud)
    (folder / "bare.raw").write_bytes(bytes(range(200)))
    sounds.written(folder / "long.wav", loud)
    (folder / "noise.flac").write_bytes(b"fLaC and then no sound")
    return {
        "missing.wav": "there is no such file",
        "bare.raw": "cannot be decoded",
        f"{'n' * 256}.wav": r"cannot be reached \(File name too long",
        "long.wav": "131100 characters, expected at most 100000",
        "stereo.wav": "2 channels",
        "rate.wav": "sample rate is 16000 Hz, and 3 others have 8000",
        "none.wav": "0 samples",
        "still.wav": "none of them a sound",
        "text.wav": "has no letters",
        "digits.wav": "Spell numbers",
        "noise.flac": "cannot be decoded",
    }


TEXTS = {"text.wav": " ", "digits.wav": "route 66", "long.wav": "longest" * 18_728 + "four"}


def test_each_bad_file_is_told_by_name(folder: Path) -> None:
    before = (folder / "manifest.tsv").read_text()
    for name, told in spoil(folder).items():
        (folder / "manifest.tsv").write_text(f"{before}{name}\t{TEXTS.get(name, 'word')}\n")
        with pytest.raises(ValueError, match=rf"1 of 4 recordings.*{name}: .*{told}") as raised:
            read(folder)
        assert str(raised.value).endswith('leave them out: bad="skip", or --bad skip.')
        found = read(folder, bad="skip")
        assert len(found.items) == 3
        assert name in found.facts["skipped"]


def test_many_bad_files_are_counted_and_the_first_are_named(folder: Path) -> None:
    bad = spoil(folder)
    with (folder / "manifest.tsv").open("a") as file:
        file.writelines(f"{name}\t{TEXTS.get(name, 'word')}\n" for name in bad)
    # Nothing is decoded where headers and transcripts are bad: two have no sound in them.
    with pytest.raises(ValueError, match="9 of 14 recordings cannot be used: missing") as told:
        read(folder)
    assert str(told.value).count(".wav: ") <= 3
    found = read(folder, bad="skip")
    assert [item.text for item in found.items] == ["second one", "first", "c"]
    assert found.facts["skipped"].startswith("11 of 14 recordings: missing.wav")
    assert found.sample_rate == sounds.RATE


def test_nothing_is_left_of_bad_files_alone(tmp_path: Path) -> None:
    table(tmp_path, [["path", "text"], ["a.wav", "one"]])
    for bad in ("refuse", "skip"):
        with pytest.raises(ValueError, match="1 of 1 recordings cannot be used"):
            read(tmp_path, bad=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([["path", "words"], ["a.wav", "one"]], "columns path, words, without text"),
        ([["path", "text"]], "lists no recordings"),
        ([], "columns none, without path"),
        ([["path", "text"], ["a.wav"]], "2 columns, and line 2 1 cells"),
        ([["path", "text"], ["a.wav", "one", "two"]], "2 columns, and line 2 3 cells"),
        ([["path", "text"], [" ", "x"]], "no path in line 2"),
        ([["path", "text", "split"], ["a.wav", "x", "mine"]], "split 'mine' in line 2"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, rows: list[list[str]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read(table(tmp_path, rows))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nowhere")
    recorded(tmp_path, ["sound.wav"])
    with pytest.raises(ValueError, match="no recordings in a layout that is known"):
        read(tmp_path)
    (tmp_path / "manifest.tsv").write_bytes(b"path\ttext\na.wav\t\xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read(tmp_path)
    with pytest.raises(ValueError, match="bad='ignore'"):
        read(tmp_path, bad="ignore")  # type: ignore[arg-type]


def test_a_transcript_of_another_chapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1-2.trans.txt").write_text("1-3-0000 HELLO\n")
    with pytest.raises(ValueError, match="expected 1-2-NUMBER"):
        read(tmp_path)


def test_pieces_of_librispeech(real: Callable[[str], Path]) -> None:
    found = read(real("librispeech"))
    assert (len(found.items), found.sample_rate) == (317, 16000)
    assert {item.split for item in found.items} == {"train", "test"}
    assert len({item.speaker for item in found.items}) == 13


def test_the_spoken_digits(real: Callable[[str], Path]) -> None:
    found = read(real("fsdd"))
    assert (len(found.items), found.sample_rate) == (3000, 8000)
    assert sum(item.split == "test" for item in found.items) == 300
