"""Folders that are there wholly or not at all, and know when one of their bytes has changed.

A folder is written under another name, forced to the disk, and then renamed. Its manifest holds
the size and the SHA-256 of every file, and a SHA-256 of itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_WRITING, _REMOVING = ".writing-", ".removing-"


class Unusable(ValueError):
    """What is wrong with a sealed folder."""


def seal(target: Path, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
    """Makes `target` a folder that holds the files which `write` puts into the folder it is given.

    Args:
        target: must not be there yet; its parent must.
        write: writes files, no folders.
        facts: plain values for the manifest.
    """
    drawn = target.with_name(_WRITING + target.name)
    shutil.rmtree(drawn, ignore_errors=True)
    drawn.mkdir()
    write(drawn)
    files = {path.name: _measured(path) for path in sorted(drawn.iterdir())}
    manifest = facts | {"files": files}
    text = json.dumps(manifest | {"sha256": _digest(manifest)}, indent=1)
    (drawn / MANIFEST).write_text(text)
    for path in (*drawn.iterdir(), drawn):
        sync(path)
    drawn.rename(target)
    sync(target.parent)


def unsealed(path: Path) -> dict[str, Any]:
    """Returns the facts of a sealed folder, after every file was found as it was written.

    Raises:
        Unusable: a file is missing, cut short or changed.
    """
    try:
        manifest: Any = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise Unusable(f"{MANIFEST} is missing") from None
    except (ValueError, RecursionError):
        raise Unusable(f"{MANIFEST} is damaged") from None
    digest = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if digest is None or digest != _digest(manifest):
        raise Unusable(f"{MANIFEST} is damaged")
    files: dict[str, Any] = manifest.pop("files")
    for name, wanted in files.items():
        _check(path / name, wanted)
    return dict(manifest)


def remove(path: Path) -> None:
    """Removes a sealed folder; it is never seen half removed."""
    going = path.with_name(_REMOVING + path.name)
    path.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what a killed process was writing or removing."""
    for prefix in (_WRITING, _REMOVING):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Forces a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = _measured(path)
    except FileNotFoundError:
        raise Unusable(f"{path.name} is missing") from None
    if found["bytes"] != wanted["bytes"]:
        raise Unusable(f"{path.name} has {found['bytes']} bytes instead of {wanted['bytes']}")
    if found["sha256"] != wanted["sha256"]:
        raise Unusable(f"{path.name} is damaged: it does not have the SHA-256 it was written with")


def _measured(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
