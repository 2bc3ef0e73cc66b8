"""A manifest on disk: canonical JSON, its hash beside it, written whole and written once."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeAlias

Manifest: TypeAlias = dict[str, Any]


def fingerprint(manifest: Manifest) -> str:
    """Sha256, in hex, of the manifest's canonical JSON (sorted keys, no spaces, ASCII)."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: str | Path, manifest: Manifest) -> None:
    """Writes the manifest and its hash: the file is complete or it is not there.

    Writing the same manifest again changes nothing, so a resumed run may do it.

    Raises:
        FileExistsError: If the file holds another manifest. What was declared before training
            stays declared.
        ValueError: If the file holds something that is not an intact manifest.
    """
    path = Path(path)
    if path.exists():
        found, expected = fingerprint(read(path)), fingerprint(manifest)
        if found != expected:
            raise FileExistsError(
                f"{path} already declares manifest {found[:12]}, not {expected[:12]}; a manifest "
                "is written once, before training: save this one under another name"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"hash": fingerprint(manifest), "manifest": manifest}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: str | Path) -> Manifest:
    """The manifest stored at `path`, unchanged since it was written.

    The hash stored in the file finds accidents and edits. Someone who edits the file can also
    rewrite that hash, so a run's record should keep the hash as well, to compare with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a manifest or does not match its own hash.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        manifest, expected = stored["manifest"], stored["hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest ({type(error).__name__}: {error}); expected JSON with "
            "'manifest' and 'hash', as written by Panel.save"
        ) from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: found a {type(manifest).__name__}, expected an object")
    found = fingerprint(manifest)
    if found != expected:
        raise ValueError(
            f"{path} was changed after it was written: its content hashes to {found[:12]}, its "
            f"hash says {str(expected)[:12]}; restore the file that was saved before training"
        )
    return manifest
