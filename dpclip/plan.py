"""The plan: which rule forms the group rows of which layer."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from dpclip.units import Unit

_MEANING = {
    "dpclip": "rule for groups",
    "opacus": "sampler registered with Opacus, summed by group",
    "vmap": "run again, vectorized over samples",
    "loop": "run again for each group",
}


def plan_table(units: Sequence[Unit]) -> str:
    """Returns one line for each captured module: name, type, parameters, rule."""
    lines = [
        (
            unit.name or "(model)",
            type(unit.module).__name__,
            sum(unit.module.get_parameter(n).numel() for n in unit.params),
            _MEANING[unit.rule],
        )
        for unit in units
    ]
    return tabulate(lines, headers=("layer", "type", "parameters", "rule"), tablefmt="simple")
