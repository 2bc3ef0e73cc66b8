"""Files of a data set by path: a folder, a zip or tar archive, or a folder of archives."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

_ZIPS = (".zip",)
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)
"""What reading a damaged or truncated archive raises."""

Entry = tuple[str, Callable[[], bytes]]
"""(name with forward slashes, how to read it: before the next entry is taken)."""


def entries(path: str | Path, endings: tuple[str, ...], what: str) -> Iterator[Entry]:
    """Yields the files with one of some endings, however deep, also those inside archives.

    The order is that of names in a folder, and that of the archive in an archive.

    Args:
        path: a folder or an archive; archives that lie in the folder itself are opened too.
        endings: in lower case, such as (".jpg", ".png").
        what: for errors, such as "jpg images".

    Raises:
        ValueError: nothing there, no such file in it, one that is there twice, or an archive that
            cannot be read.
    """
    path, seen = Path(path), set[str]()
    if not path.exists():
        raise ValueError(f"{path} does not exist: expected a folder, zip or tar file of {what}.")
    for name, read in _folder(path, endings) if path.is_dir() else _archive(path, endings):
        if PurePosixPath(name).name.startswith("."):  # what file managers leave behind
            continue
        if name in seen:
            raise ValueError(
                f"{path} holds {name} twice. Where an archive lies beside its own files, remove "
                "one of the two."
            )
        seen.add(name)
        yield name, read
    if not seen:
        raise ValueError(
            f"{path} holds no file that ends in {' or '.join(endings)}: expected {what}."
        )


def _folder(path: Path, endings: tuple[str, ...]) -> Iterator[Entry]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if name.lower().endswith(endings):
            yield name, file.read_bytes
        elif file.parent == path and name.lower().endswith((*_ZIPS, *_TARS)):
            yield from _archive(file, endings)


def _archive(path: Path, endings: tuple[str, ...]) -> Iterator[Entry]:
    name = path.name.lower()
    if not name.endswith((*_ZIPS, *_TARS)):
        raise ValueError(f"{path} is a file: expected a folder or {', '.join((*_ZIPS, *_TARS))}.")
    opened = _zipped if name.endswith(_ZIPS) else _tarred
    with _whole(path):
        for inside, read in opened(path, endings):
            yield inside, partial(_read, path, read)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read to its end ({error}). Fetch it again.") from error


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _whole(path):
        return read()


def _zipped(path: Path, endings: tuple[str, ...]) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith(endings):
                yield name, partial(archive.read, name)


def _tarred(path: Path, endings: tuple[str, ...]) -> Iterator[Entry]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.lower().endswith(endings):
                yield member.name, partial(_member, archive, member)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    with file:
        return file.read()
