"""What a lower bound says about a claimed epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def verdict(row: Mapping[str, Any]) -> str:
    """Returns what an audit's bound says about the claim of the same run.

    "not-claimed" where no epsilon is claimed; "contradicted" where the bound exceeds it;
    "unresolvable" where not even a perfect attack could have; "consistent" otherwise.

    Args:
        row: with `eps`, `eps_lb` and `eps_lb_ceiling`.
    """
    claim, bound, ceiling = row["eps"], row["eps_lb"], row["eps_lb_ceiling"]
    if math.isinf(claim):
        return "not-claimed"
    if bound > claim:
        return "contradicted"
    return "consistent" if ceiling > claim else "unresolvable"
