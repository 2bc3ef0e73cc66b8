"""All rules for operations."""

from __future__ import annotations

from dpclip.ops import convolutions, elementwise, joins, lookups, norms, products
from dpclip.ops.table import Rule

RULES: dict[object, Rule] = {
    **products.RULES,
    **elementwise.RULES,
    **joins.RULES,
    **norms.RULES,
    **lookups.RULES,
    **convolutions.RULES,
}
