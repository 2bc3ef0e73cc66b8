"""Waveforms kept on disk, since every run of a sweep asks for the same thousands of them."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.int16]

_UNFINISHED = "unfinished-"

LIMIT = 4 * 2**30
"""Bytes that a folder may hold; beyond them the files not used for longest are deleted."""


def cache_folder() -> Path:
    """`dpclip/speech` in $XDG_CACHE_HOME, or in ~/.cache where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dpclip" / "speech"


def read(path: Path, count: int) -> list[Pcm] | None:
    """The waveforms of a file, or None if there is none or it is not what `write` wrote.

    Args:
        path: The file.
        count: How many waveforms it should hold.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path.parent, error) from error
    with suppress(OSError):  # a folder that others keep may be read all the same
        os.utime(path)  # used now, so that it is not the next to be deleted
    seal, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != seal or len(body) < 8 * count:
        return None
    ends = np.cumsum(np.frombuffer(body, np.int64, count))
    pcm = np.frombuffer(body, np.int16, offset=8 * count)
    return np.split(pcm, ends[:-1]) if count and ends[-1] == len(pcm) else None


def write(path: Path, waveforms: Sequence[Pcm], limit: int = LIMIT) -> None:
    """Keeps waveforms in a file; a reader sees all of it or nothing, whoever else writes it.

    Args:
        path: The file; its folder is made if it is missing.
        waveforms: To keep.
        limit: Bytes that the folder may hold.

    Raises:
        ValueError: The folder cannot be written.
    """
    lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
    body = b"".join([lengths.tobytes(), *(waveform.tobytes() for waveform in waveforms)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_UNFINISHED, delete=False) as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.replace(file.name, path)
        _trim(path.parent, limit)
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _trim(folder: Path, limit: int) -> None:
    """Deletes the files used least lately; another process may be doing the same."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process has renamed or deleted it since
                if entry.is_file() and not entry.name.startswith(_UNFINISHED):
                    files.append((entry.path, entry.stat()))
    files.sort(key=lambda file: file[1].st_mtime_ns, reverse=True)
    sizes = np.cumsum([stat.st_size for _, stat in files])
    for (path, _), held in zip(files, sizes, strict=True):
        if held > limit:
            Path(path).unlink(missing_ok=True)


def _unusable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"the folder of kept speech, {folder}, cannot be used ({error.strerror}); set "
        "XDG_CACHE_HOME to a folder that can be written"
    )
