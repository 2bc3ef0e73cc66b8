"""What goes where: results to stdout, all else to stderr where a program reads them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dpclip.cli.errors import Contradicted


@dataclass(frozen=True)
class Output:
    """How a command tells what it has to tell.

    Attributes:
        quiet: only the result; neither progress nor remarks.
        json: rows as JSON on stdout, everything else on stderr.
    """

    quiet: bool = False
    json: bool = False

    def result(self, *lines: str) -> None:
        """Prints what was asked for, to people; a program gets it as rows."""
        if not (self.quiet and self.json):
            self._print(lines)

    def remark(self, *lines: str) -> None:
        """Prints what explains the result."""
        if not self.quiet:
            self._print(lines)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Prints the rows to stdout where JSON was asked for, and nothing otherwise."""
        if self.json:
            print(json_rows(rows), flush=True)

    def _print(self, lines: Iterable[str]) -> None:
        print("\n".join(lines), file=sys.stderr if self.json else sys.stdout, flush=True)


@contextmanager
def judged(rows: Iterable[Mapping[str, Any]], shared: str) -> Iterator[None]:
    """Has the block done, which logs; then a contradicted run decides how the command ends.

    What the block failed with is told all the same.

    Args:
        rows: the runs, each with its arm and its verdict.
        shared: over what the bounds' failure probability was shared.

    Raises:
        Contradicted: a lower bound exceeds a claimed epsilon.
    """
    wrong = [row["arm"] for row in rows if row.get("verdict") == "contradicted"]
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not wrong:
            raise
        print(f"dpclip: {error}", file=sys.stderr)
    if wrong:
        raise Contradicted(
            f"the lower bound of {wrong[0]} exceeds the epsilon it claims ({shared})"
        )


def json_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns the rows as a JSON array, a row per line, that strict parsers read.

    JSON has no infinity: it is the string "inf" or "-inf". What is not a number is null.
    """
    each = (json.dumps({k: _strict(v) for k, v in row.items()}, allow_nan=False) for row in rows)
    return "[\n" + ",\n".join(each) + "\n]"


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
