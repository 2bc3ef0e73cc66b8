"""Declarations as files: written before training, read again afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from audits.safe import Safe
from canaries import manifest
from canaries.manifest import fingerprint

RECORDS, GRADIENTS = "records", "gradients"


def safe(folder: Path, name: str) -> Safe:
    """Returns the safe for one declaration of a run, a file that is written once.

    Args:
        folder: of the run.
        name: of the declaration.
    """
    path = folder / f"{name}.json"

    def digest(declared: Mapping[str, Any]) -> str:
        return fingerprint(dict(declared))

    def keep(declared: Mapping[str, Any]) -> str:
        manifest.write(path, dict(declared))
        return digest(declared)

    return Safe(keep, partial(manifest.read, path), digest)


def check_kept(folder: Path, row: Mapping[str, Any]) -> None:
    """Looks whether the declarations of a finished run are still what its row was judged by.

    Args:
        folder: of the run.
        row: of its result.

    Raises:
        RuntimeError: one is missing, or is another.
    """
    for column, name in (("manifest", RECORDS), ("lb_manifest", GRADIENTS)):
        if (judged := row.get(column)) is None:
            continue
        path = folder / f"{name}.json"
        found = fingerprint(manifest.read(path)) if path.exists() else "nothing"
        if found != judged:
            raise RuntimeError(
                f"{path} holds {found[:12]}, and the finished run was judged by {judged[:12]}. "
                "Its numbers cannot be trusted any more: delete its file in cells/ to run it again."
            )
