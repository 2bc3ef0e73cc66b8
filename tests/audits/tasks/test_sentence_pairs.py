import gzip
import shutil
from pathlib import Path

import pytest

from audits.tasks.sentence_pairs import read
from tests.audits.tasks import folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folders.pairs(tmp_path, train=20)


def test_lines_of_two_files_are_pairs(folder: Path) -> None:
    corpus = read(folder)
    assert [len(part.sources) for part in corpus] == [20, 6, 6]
    for seed, part in enumerate(corpus):
        assert (part.sources, part.targets) == folders.sentences(len(part.sources), seed)
    other = read(folder, "de", "en")
    assert other.train == (corpus.train.targets, corpus.train.sources)
    assert corpus.test.at([3, 0]).targets == [corpus.test.targets[3], corpus.test.targets[0]]


def test_the_usual_test_part_is_taken_or_the_only_one(folder: Path) -> None:
    expected = read(folder).test
    for language in ("en", "de"):
        shutil.copy(folder / f"val.{language}", folder / f"test_2017_flickr.{language}")
    assert read(folder).test == expected
    for language in ("en", "de"):
        (folder / f"test_2016_flickr.{language}").rename(folder / f"test_b.{language}")
    with pytest.raises(ValueError, match=r"2 test parts \(test_2017_flickr, test_b\)"):
        read(folder)
    for language in ("en", "de"):
        (folder / f"test_2017_flickr.{language}").unlink()
    assert read(folder).test == expected


def test_line_ends_are_left_out_and_other_breaks_are_not(folder: Path) -> None:
    for language in ("en", "de"):
        (folder / f"val.{language}").write_bytes("a\x0bb\r\n c\u2028d \r\n".encode())
    assert read(folder).validation.sources == ["a\x0bb", "c\u2028d"]


def test_damage_is_named(folder: Path) -> None:
    (folder / "val.en").write_bytes(b"fine\nalso fine\nno\xff\n")
    with pytest.raises(ValueError, match=r"val\.en is not UTF-8: line 3"):
        read(folder)
    (folder / "val.en").write_text("a\n\nb\n  \n")
    with pytest.raises(ValueError, match=r"val\.en has 2 of 4 lines without text, first line 2"):
        read(folder)
    (folder / "val.en").write_text("a\n")
    with pytest.raises(ValueError, match=r"1 in val\.en and 6 in val\.de sentences"):
        read(folder)
    (folder / "val.en").write_text("")
    with pytest.raises(ValueError, match=r"val\.en is empty"):
        read(folder)
    (folder / "val.en").unlink()
    with pytest.raises(ValueError, match=r"has neither val\.en nor val\.en\.gz"):
        read(folder)


def test_a_packed_file_that_was_cut_off_is_named(folder: Path) -> None:
    whole = (folder / "train.en.gz").read_bytes()
    (folder / "train.en.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"train\.en\.gz cannot be read to its end"):
        read(folder)
    (folder / "train.en.gz").write_bytes(b"not packed")
    with pytest.raises(ValueError, match=r"train\.en\.gz cannot be read to its end"):
        read(folder)
    (folder / "train.en.gz").write_bytes(gzip.compress("ä\n".encode("latin-1")))
    with pytest.raises(ValueError, match=r"train\.en\.gz is not UTF-8: line 1"):
        read(folder)


def test_what_is_no_folder_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is no folder: expected one with train\.en"):
        read(folder / "nowhere")
    with pytest.raises(ValueError, match=r"has neither train\.fr nor train\.fr\.gz"):
        read(folder, "fr", "de")
