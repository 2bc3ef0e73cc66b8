import tarfile
import zipfile
from pathlib import Path

import pytest

from audits.tasks.archives import entries

FILES = {"a/1.txt": b"one", "a/b/2.TXT": b"two", "3.md": b"three", "a/._1.txt": b"left behind"}
EXPECTED = {"a/1.txt": b"one", "a/b/2.TXT": b"two"}


def write(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def packed(folder: Path, into: Path, name: str) -> Path:
    into.mkdir(exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(into / name, "w") as archive:
            for file in FILES:
                archive.write(folder / file, file)
    else:
        kind = {"tar": "w", "xz": "w:xz", "gz": "w:gz"}[name.rpartition(".")[2]]
        with tarfile.open(into / name, kind) as archive:  # type: ignore[call-overload]
            archive.add(folder, ".")
            for file in FILES:
                archive.getmember(f"./{file}")  # what a tar of a folder calls them
    return into / name


def found(path: Path) -> dict[str, bytes]:
    return {name.removeprefix("./"): read() for name, read in entries(path, (".txt",), "texts")}


def test_a_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    assert found(write(tmp_path)) == EXPECTED


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tar.xz", "all.tar.gz"])
def test_an_archive_is_read_as_the_folder_would_be(tmp_path: Path, name: str) -> None:
    archive = packed(write(tmp_path / "plain"), tmp_path / "packed", name)
    assert found(archive) == EXPECTED
    assert found(archive.parent) == EXPECTED


@pytest.mark.parametrize("name", ["all.zip", "all.tar.xz"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str) -> None:
    archive = packed(write(tmp_path / "plain"), tmp_path / "packed", name)
    archive.write_bytes(archive.read_bytes()[:-60])
    with pytest.raises(ValueError, match=f"{name} cannot be read to its end .*Fetch it again"):
        found(archive.parent)


def test_a_file_that_was_damaged_inside_its_archive_is_found_when_read(tmp_path: Path) -> None:
    archive = packed(write(tmp_path / "plain"), tmp_path / "packed", "all.zip")
    archive.write_bytes(archive.read_bytes().replace(b"one", b"eno"))
    with pytest.raises(ValueError, match=r"all\.zip cannot be read to its end \(Bad CRC-32"):
        found(archive)


def test_files_beside_their_archive_are_not_read_twice(tmp_path: Path) -> None:
    write(tmp_path)
    packed(tmp_path, tmp_path, "all.zip")
    with pytest.raises(ValueError, match=r"holds a/1.txt twice.*remove"):
        found(tmp_path)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist: expected a folder.* of texts"):
        found(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no file that ends in \.txt: expected texts"):
        found(tmp_path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match=r"x\.txt is a file: expected a folder or \.zip"):
        found(tmp_path / "x.txt")
