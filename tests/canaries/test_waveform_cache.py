import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from canaries.waveform_cache import Pcm, cache_folder, read, write

WAVES: list[Pcm] = [np.arange(5, dtype=np.int16), np.array([-32768], dtype=np.int16)]


def same(found: list[Pcm] | None, expected: list[Pcm]) -> bool:
    return found is not None and all(map(np.array_equal, found, expected))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert read(path, 2) is None
    write(path, WAVES)
    found = read(path, 2)
    assert same(found, WAVES)
    assert found is not None
    assert [wave.dtype for wave in found] == [np.int16, np.int16]
    assert [entry.name for entry in path.parent.iterdir()] == ["b"]


def test_empty_waveforms_keep_their_places(tmp_path: Path) -> None:
    waves = [np.zeros(0, np.int16), WAVES[0], np.zeros(0, np.int16)]
    write(tmp_path / "a", waves)
    assert same(read(tmp_path / "a", 3), waves)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0\0",
        lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        lambda content: content[:33] + bytes([content[33] ^ 1]) + content[34:],
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a"
    write(path, WAVES)
    path.write_bytes(damage(path.read_bytes()))
    assert read(path, 2) is None


def test_a_file_of_another_count_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a", WAVES)
    assert read(tmp_path / "a", 1) is None
    assert read(tmp_path / "a", 3) is None
    assert read(tmp_path / "a", 300) is None


def test_the_files_used_least_lately_go_first(tmp_path: Path) -> None:
    wave = [np.zeros(500, np.int16)]  # 1,040 bytes in a file
    for age, name in enumerate(["a", "b", "c"]):
        write(tmp_path / name, wave)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert read(tmp_path / "a", 1) is not None
    write(tmp_path / "d", wave, limit=3200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_a_reader_sees_all_or_nothing_of_what_others_write(tmp_path: Path) -> None:
    wave = [np.arange(30_000, dtype=np.int16)]
    with ThreadPoolExecutor(2) as pool:
        fifty = [tmp_path / "a"] * 50
        writers = [pool.submit(lambda: [write(path, wave) for path in fifty]) for _ in range(2)]
        found = []
        while not all(writer.done() for writer in writers):
            found.append(read(tmp_path / "a", 1))
    assert [writer.result() for writer in writers] == [[None] * 50] * 2
    seen = found[next(n for n, kept in enumerate(found) if kept is not None) :]
    assert all(same(kept, wave) for kept in seen)


@pytest.mark.parametrize("act", [lambda path: read(path, 1), lambda path: write(path, WAVES)])
def test_a_folder_that_cannot_be_used_is_said(
    tmp_path: Path, act: Callable[[Path], object]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file, cannot be used.*XDG_CACHE_HOME"):
        act(tmp_path / "file" / "a")


def test_the_folder_is_where_caches_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dpclip" / "speech"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "dpclip" / "speech"


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "unfinished-abc"
    theirs.write_bytes(bytes(10_000))
    os.utime(theirs, (1, 1))
    write(tmp_path / "mine", [np.ones(10, dtype=np.int16)], limit=500)
    assert theirs.exists()
    assert read(tmp_path / "mine", 1) is not None


def test_a_file_that_vanishes_meanwhile_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "old", [np.ones(10, dtype=np.int16)])
    scan = os.scandir

    @contextmanager
    def vanishing(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scan(folder) as entries:
            found = list(entries)
        (tmp_path / "old").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", vanishing)
    write(tmp_path / "new", [np.ones(10, dtype=np.int16)])
    assert read(tmp_path / "new", 1) is not None


def test_a_folder_that_others_keep_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "theirs", [np.arange(10, dtype=np.int16)])

    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", forbidden)
    found = read(tmp_path / "theirs", 1)
    assert found is not None
    assert found[0].tolist() == list(range(10))
