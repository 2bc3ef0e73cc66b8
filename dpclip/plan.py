"""The plan: how the group gradients of each layer are captured, and how they are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate
from torch import nn

from dpclip.speed import Choice
from dpclip.units import Unit

_CAPTURED = {
    "dpclip": "rule for groups",
    "opacus": "sampler registered with Opacus, summed by group",
    "operations": "the operations on its parameters",
}
_HEADERS = ("layer", "type", "parameters", "captured by", "group gradients", "ms", "MB")


def plan_table(units: Sequence[Unit], made: Mapping[nn.Parameter, Choice]) -> str:
    """Returns one line for each captured module.

    The columns: its name, type and parameters, the rule that captures it, whether the gradients
    of all groups are formed or only their norms and their sum; the measured time of norms and sum
    (none where it was decided by shapes) and the memory of what is formed.
    """
    lines = [_line(unit, made) for unit in units]
    return tabulate(lines, headers=_HEADERS, tablefmt="simple", floatfmt=".2f")


def _line(unit: Unit, made: Mapping[nn.Parameter, Choice]) -> tuple[object, ...]:
    params = [unit.module.get_parameter(name) for name in unit.params]
    choices = [made[p] for p in params if p in made]
    times = [c.seconds for c in choices if c.seconds is not None]
    return (
        unit.name or "(model)",
        type(unit.module).__name__,
        sum(p.numel() for p in params),
        _CAPTURED[unit.rule],
        _summed(choices),
        1e3 * sum(times) if times else None,
        sum(c.bytes for c in choices) / 1e6,
    )


def _summed(choices: Sequence[Choice]) -> str:
    """Returns how the parameters are summed that a choice was made for (biases have none)."""
    ways = {c.formed for c in choices}
    if len(ways) == 2:
        return "some formed"
    return {True: "formed", False: "norms and sum"}[ways.pop()] if ways else "formed"
