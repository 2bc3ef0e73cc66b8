"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Literal

import torch

from benchmarks.models import MODELS, Workload
from benchmarks.ways import PLAIN, SHARINGS, Plan, Refusal, Way, attempt, ways

_SLOW = ("opacus-functorch",)
"""Left out unless they are asked for."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--models",
        type=_names(MODELS),
        default=list(MODELS),
        metavar="A,B",
        help=f"of {', '.join(MODELS)} (default: all)",
    )
    made.add_argument("--reduced", action="store_true", help="tiny models, to try things out")
    made.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return made


def add_ways(made: argparse.ArgumentParser) -> None:
    """Adds the choice of ways and of dpclip's plan."""
    known = ways(Plan())
    made.add_argument(
        "--ways",
        type=_names(known),
        default=[name for name in known if name not in _SLOW],
        metavar="A,B",
        help=f"of {', '.join(known)} (default: all but {', '.join(_SLOW)})",
    )
    made.add_argument(
        "--memory", type=_memory, default="fast", help="dpclip's plan: fast, low or bytes"
    )
    made.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let dpclip choose its rules by timing them on the first batch",
    )
    made.add_argument("--loop", action="store_true", help="let dpclip loop over the groups")


def add_groups(made: argparse.ArgumentParser) -> None:
    """Adds the choice of groups."""
    made.add_argument(
        "--groups",
        type=_names(SHARINGS),
        default=["1", "4"],
        metavar="A,B",
        help=f"samples in a group, of {', '.join(SHARINGS)} (default: 1,4)",
    )


def chosen_ways(given: argparse.Namespace) -> dict[str, Way]:
    """Returns the ways that were asked for, the plain step first."""
    every = ways(plan_of(given))
    return {name: every[name] for name in dict.fromkeys([PLAIN, *given.ways])}


def plan_of(given: argparse.Namespace) -> Plan:
    """Returns the plan that was asked for."""
    return Plan(given.memory, given.measure, given.loop)


def workload_of(name: str, reduced: bool, device: str) -> Workload | Refusal:
    """Returns a model with its data, or what is missing to build it."""
    sizes = MODELS[name]
    return attempt(lambda: (sizes.reduced if reduced else sizes.full)().to(torch.device(device)))


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns a parser of comma-separated names of what is known."""
    expected = list(known)

    def names(words: str) -> list[str]:
        found = words.split(",")
        for name in found:
            if name not in expected:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown: expected some of {', '.join(expected)}"
                )
        return found

    return names


def _memory(word: str) -> Literal["fast", "low"] | int:
    if word == "fast":
        return "fast"
    if word == "low":
        return "low"
    if word.isdecimal():
        return int(word)
    raise argparse.ArgumentTypeError(f"{word!r}: expected fast, low or a number of bytes")
