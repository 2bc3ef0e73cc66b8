"""What every step has spent, written down before the step releases anything.

A secure noise stream is not saved, so a step after the last checkpoint cannot be repeated: the
run goes on with other noise, and both count. A line is one `write` to a file opened for appending:
it outlives the process. It is not forced to the disk (4 ms a step), which would matter only if
the machine loses power; the results of the steps in question are lost with it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """What one step has spent.

    Attributes:
        sigma: effective noise multiplier.
        rate: q, None if nobody knows.
        reasons: why no epsilon can be claimed for it.
    """

    sigma: float
    rate: float | None
    reasons: tuple[str, ...] = ()


class Journal:
    """An append-only file of `Spent`, one JSON object a line.

    Args:
        path: the file; it is made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def note(self, spent: Spent) -> None:
        """Appends a line, which a killed process leaves behind.

        Raises:
            OSError: it cannot be written.
        """
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if (size := self.size()) and os.pread(self._handle, 1, size - 1) != b"\n":
                os.write(self._handle, b"\n")  # the torn line before stays one of its own
        line = {"sigma": spent.sigma, "q": spent.rate, "reasons": spent.reasons}
        text = json.dumps(line).encode() + b"\n"
        if os.write(self._handle, text) != len(text):
            self.close()
            raise OSError(f"{self.path} could not be written: the disk is full.")

    def size(self) -> int:
        """Returns the bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def sync(self) -> None:
        """Forces what was written to the disk."""
        if self._handle is not None:
            os.fsync(self._handle)

    def since(self, size: int, worst: Spent) -> list[Spent]:
        """Returns what was noted after the file had so many bytes.

        Args:
            size: what `size()` returned.
            worst: what a line that cannot be read counts as, unless a readable one spent more.

        Raises:
            ValueError: the file is shorter than that.
        """
        if self.size() < size:
            raise ValueError(f"{self.path} has {self.size()} bytes, and had {size}")
        if not self.path.exists():
            return []
        lines = [_read(line) for line in self.path.read_bytes()[size:].splitlines() if line]
        known = [worst, *(line for line in lines if line is not None)]
        rates = [line.rate for line in known if line.rate is not None]
        torn = Spent(min(line.sigma for line in known), max(rates, default=None))
        return [torn if line is None else line for line in lines]

    def close(self) -> None:
        """Closes the file."""
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None


def _read(line: bytes) -> Spent | None:
    """Returns what a line says, None for one that was torn or damaged."""
    try:
        found: Any = json.loads(line)
        rate = None if found["q"] is None else float(found["q"])
        return Spent(float(found["sigma"]), rate, tuple(str(r) for r in found["reasons"]))
    except (ValueError, TypeError, KeyError):
        return None
