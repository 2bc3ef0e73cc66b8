"""All rules for operations."""

from __future__ import annotations

from dpclip.ops import (
    convolutions,
    einsum,
    elementwise,
    joins,
    lookups,
    norms,
    products,
    selections,
)
from dpclip.ops.table import Rule

RULES: dict[object, Rule] = {
    **products.RULES,
    **einsum.RULES,
    **elementwise.RULES,
    **selections.RULES,
    **joins.RULES,
    **norms.RULES,
    **lookups.RULES,
    **convolutions.RULES,
}
