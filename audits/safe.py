"""Where a declaration is kept from before training until its scores are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from audits.declaration import Declaration, Refused


class Safe(NamedTuple):
    """Keeps one manifest; made by whoever knows of files.

    Attributes:
        keep: stores a manifest once and for all, and returns its hash; storing another one
            afterwards is an error.
        recall: returns what was stored, or raises if it was touched since.
        digest: the hash of a manifest.
    """

    keep: Callable[[Mapping[str, Any]], str]
    recall: Callable[[], Mapping[str, Any]]
    digest: Callable[[Mapping[str, Any]], str]

    def declared(self, kept: str) -> Declaration:
        """Returns the declaration that was kept.

        Args:
            kept: the hash that `keep` returned.

        Raises:
            Refused: another one is there now, whatever its own hash says.
        """
        found = Declaration.of(self.recall())
        if (digest := self.digest(found.manifest())) != kept:
            raise Refused(
                f"the declaration was exchanged after training began: {kept[:12]} was kept, and "
                f"{digest[:12]} is there now"
            )
        return found
