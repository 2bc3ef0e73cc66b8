"""Ordinary files that data come in: links, quotes, recordings that are listed twice."""

from pathlib import Path

import pytest

from audits.tasks.speech.recordings import read
from tests.audits.tasks.speech import sounds

pytest.importorskip("soundfile")


def part(folder: Path, speaker: str, pitch: float = 300) -> Path:
    """A part of LibriSpeech with two recordings of a speaker."""
    chapter = folder / speaker / "1"
    names = [f"{speaker}-1-{i:04d}" for i in range(2)]
    for i, name in enumerate(names):
        sounds.written(chapter / f"{name}.flac", sounds.tone(pitch + 50 * i, 0.2))
    (chapter / f"{speaker}-1.trans.txt").write_text("".join(f"{name} WORD\n" for name in names))
    return folder


def manifest(folder: Path, text: str, names: str = "ab") -> Path:
    for i, name in enumerate(names):
        sounds.written(folder / f"{name}.wav", sounds.tone(300 + 50 * i, 0.2))
    (folder / "manifest.tsv").write_text(text, encoding="utf-8", newline="")
    return folder


def test_parts_that_are_links_are_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    part(data / "train-clean-100", "1")
    (data / "dev-clean").symlink_to(part(tmp_path / "elsewhere", "2"))
    speaker = part(tmp_path / "more", "3") / "3"
    (data / "train-clean-100" / "3").symlink_to(speaker)
    assert [(r.split, r.speaker) for r in read(data).items] == [
        *[("validation", "2")] * 2,
        *[("train", "1")] * 2,
        *[("train", "3")] * 2,
    ]


def test_links_in_a_ring_end(tmp_path: Path) -> None:
    part(tmp_path / "train-clean-100", "1")
    (tmp_path / "train-clean-100" / "1" / "back").symlink_to(tmp_path)
    assert len(read(tmp_path).items) == 2


def test_a_part_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    part(tmp_path / "train-clean-100", "1")
    (tmp_path / "test-clean").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="test-clean is a link to nothing"):
        read(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part(tmp_path / "train-clean-100", "1")
    whole = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "1":
            raise PermissionError(13, "Permission denied")
        return whole(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(ValueError, match="cannot be looked into"):
        read(tmp_path)


def test_two_parts_that_are_one_folder_are_refused_or_skipped(tmp_path: Path) -> None:
    part(tmp_path / "train-clean-100", "1")
    (tmp_path / "test-clean").symlink_to(tmp_path / "train-clean-100")
    told = r"2 of 4 recordings.* train-clean-100\S+: it is the same recording as test-clean/1/1/1-1"
    with pytest.raises(ValueError, match=told):
        read(tmp_path)
    found = read(tmp_path, bad="skip")
    assert [r.split for r in found.items] == ["test", "test"]
    assert found.facts["skipped"].startswith("2 of 4")


@pytest.mark.parametrize("again", ["a.wav", "./a.wav", "deep/../a.wav", "{folder}/a.wav", "l.wav"])
def test_a_recording_that_a_manifest_lists_twice(tmp_path: Path, again: str) -> None:
    again = again.format(folder=tmp_path)
    manifest(tmp_path, f"path\ttext\na.wav\tone\nb.wav\ttwo\n{again}\tthree\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "l.wav").symlink_to("a.wav")
    with pytest.raises(ValueError, match=r"1 of 3 .* same recording as a\.wav, which is listed"):
        read(tmp_path)
    found = read(tmp_path, bad="skip")
    assert [r.text for r in found.items] == ["one", "two"]
    assert found.facts["skipped"].startswith(f"1 of 3 recordings: {again}: ")


def test_a_line_that_librispeech_lists_twice(tmp_path: Path) -> None:
    part(tmp_path, "1")
    file = tmp_path / "1" / "1" / "1-1.trans.txt"
    file.write_text(file.read_text() + "1-1-0000 OTHER\n")
    with pytest.raises(ValueError, match=r"1 of 3 recordings.*1-1-0000.* same recording"):
        read(tmp_path)
    assert [r.text for r in read(tmp_path, bad="skip").items] == ["word", "word"]


def test_a_spoken_digit_in_two_formats(tmp_path: Path) -> None:
    for i, name in enumerate(("7_ann_5.flac", "7_ann_5.wav", "7_ann_6.wav", "7_bob_5.wav")):
        sounds.written(tmp_path / name, sounds.tone(300 + 50 * i, 0.2))
    with pytest.raises(ValueError, match=r"1 of 4 .* 7_ann_5\.wav: .* as 7_ann_5\.flac"):
        read(tmp_path)
    assert len(read(tmp_path, bad="skip").items) == 3


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    part(tmp_path, "1")
    file = tmp_path / "1" / "1" / "1-1.trans.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read(tmp_path).items) == 2


def test_cells_may_be_in_quotes(tmp_path: Path) -> None:
    rows = ['"path"\t"text"\t"split"', '"a.wav"\t"one"\t"train"', 'b.wav\t"two" or so\ttest']
    found = read(manifest(tmp_path, "\n".join(rows)))
    assert [(r.name, r.text, r.split) for r in found.items] == [
        ("a.wav", "one", "train"),
        ("b.wav", "two or so", "test"),
    ]


def test_only_ends_of_lines_end_a_line(tmp_path: Path) -> None:
    text = (
        "\r\npath\ttext\r\n\r\na.wav\tone\u2028two\x0bthree\x85four\r\n \t \r\nb.wav\tfive\r\n\r\n"
    )
    assert [r.text for r in read(manifest(tmp_path, text)).items] == ["one two three four", "five"]
    with pytest.raises(ValueError, match="line 4 1 cells"):
        read(manifest(tmp_path, "\npath\ttext\n\na.wav\n"))


def test_separators_in_librispeech_transcripts(tmp_path: Path) -> None:
    part(tmp_path, "1")
    file = tmp_path / "1" / "1" / "1-1.trans.txt"
    file.write_text(file.read_text().replace("WORD", "TWO\u2028WORDS", 1))
    assert [r.text for r in read(tmp_path).items] == ["two words", "word"]


def test_transcripts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    part(tmp_path, "1")
    (tmp_path / "1" / "1" / "1-2.trans.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path)


def test_names_that_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / ("n" * 300))
    manifest(tmp_path, "path\ttext\na.wav\tone\nb.wav\ttwo\nnul\0.wav\tthree\n")
    assert len(read(tmp_path, bad="skip").items) == 2
    assert "null byte" in read(tmp_path, bad="skip").facts["skipped"]
