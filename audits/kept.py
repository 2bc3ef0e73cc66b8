"""What a store holds by now: reading finished cells without being the sweep that makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audits.sweep import Result, Scalar


@dataclass(frozen=True)
class Kept:
    """A finished cell.

    Attributes:
        config: what decided its result.
        result: its row, series and canaries.
        when: when it was written, in seconds since the epoch.
    """

    config: Mapping[str, Scalar]
    result: Result
    when: float


def kept(directory: Path) -> list[Kept]:
    """Returns the finished cells of a store, oldest first; none where there is no store.

    Nothing is made or changed, so it may be called while a sweep writes there. A file that holds
    no finished cell is passed over, as the sweep would run that cell again.

    Args:
        directory: the store.
    """
    found = [one for path in (directory / "cells").glob("*.json") if (one := _read(path))]
    return sorted(found, key=lambda one: one.when)


def latest(cells: list[Kept], apart: frozenset[str]) -> list[Kept]:
    """Returns the cells of the sweep that wrote last, none where there are no cells.

    They differ from the last one in nothing but what cells of one sweep differ in.

    Args:
        cells: of a store, oldest first.
        apart: names in the configs that cells of one sweep differ in.
    """
    return [one for one in cells if _shared(one, apart) == _shared(cells[-1], apart)]


def _shared(cell: Kept, apart: frozenset[str]) -> dict[str, Scalar]:
    return {name: value for name, value in cell.config.items() if name not in apart}


def _read(path: Path) -> Kept | None:
    try:
        content = json.loads(path.read_text())
        config, result = content["config"], content["result"]
        when = path.stat().st_mtime
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    whole = isinstance(config, dict) and isinstance(result, dict) and "row" in result
    return Kept(config, result, when) if whole else None
