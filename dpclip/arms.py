"""Arms of a sweep: words on the command line, and the groupings and weightings they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from dpclip.clustering import clusters
from dpclip.grad_queue import scarcity
from dpclip.grouping import micro_batches, per_core, per_sample
from dpclip.pacing import by_angle
from dpclip.types import Grouping, Pacing, Weighting
from dpclip.weighting import clip, clip_to_min, normalize, per_layer, quantile, uniform

GROUPINGS = "none, sample, microbatch:B[:random], core:N[:fixed], cluster:K, cluster:B:per"
WEIGHTINGS = "clip:C, per_layer:C, normalize:GAMMA, quantile:Q, min, scarcity:L"
PACINGS = "none, angle:ALPHA[:CAP]"


Lists = tuple[str, str, str]
"""Comma-separated groupings, weightings and noise multipliers; every combination is meant."""

_SPEECH: tuple[Lists, ...] = (
    ("none", "min", "0"),
    ("sample,core:8", "clip:0.1", "0"),
)
DEFAULTS: dict[str, tuple[Lists, ...]] = {
    "digits": (
        ("none", "min", "0"),
        ("sample,microbatch:4,microbatch:16,core:8,core:2", "clip:0.1,min", "0"),
        ("sample", "clip:0.1", "0.5"),
    ),
    "text": (
        ("none", "min", "0"),
        ("sample", "clip:0.5", "0,0.1,0.5"),
        ("microbatch:8", "min", "0"),
    ),
    "speech": _SPEECH,
    "speech_conformer": _SPEECH,
}
_ANY_TASK: tuple[Lists, ...] = (("none,sample", "clip:1.0", "0"),)


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        clip: none, sample, microbatch, core or cluster.
        size: samples per micro-batch, cores, clusters or samples per cluster; 1 for sample; None
            for none.
        slots: position, random or fixed; per where clusters are so many samples large.
        weighting: none, clip, per_layer, normalize, quantile, min or scarcity.
        number: the weighting's number (C, gamma, q, L), or None.
        sigma: noise multiplier.
        pacing: none, or angle:ALPHA[:CAP].
    """

    clip: str
    size: int | None
    slots: str
    weighting: str
    number: float | None
    sigma: float
    pacing: str = "none"

    @property
    def label(self) -> str:
        """The arm as it is written on the command line."""
        size = "" if self.clip in ("none", "sample") else f":{self.size}"
        slots = "" if self.slots == "position" else f":{self.slots}"
        rule = "" if self.clip == "none" else f" {self.weighting}"
        number = "" if self.number is None else f":{self.number:g}"
        noise = f" noise {self.sigma:g}" if self.sigma else ""
        paced = f" {self.pacing}" if self.pacing != "none" else ""
        return f"{self.clip}{size}{slots}{rule}{number}{noise}{paced}"

    @property
    def columns(self) -> dict[str, str | int | float | None]:
        """The columns of the flat dict that say which arm a run belongs to."""
        return {
            "clip": self.clip,
            "weighting": self.weighting,
            "C": self.number,
            "sigma": self.sigma,
            "mb": self.size,
            "slots": self.slots,
            "pacing": self.pacing,
        }

    def grouping(self, features: str = "") -> Grouping:
        """Returns the grouping; no clipping is one group with weight one, which is plain SGD.

        Args:
            features: the layer of the task's model whose output is clustered.

        Raises:
            ValueError: clusters, and no such layer.
        """
        if self.clip == "none":
            return per_core(1)
        if self.clip == "sample":
            return per_sample()
        assert self.size is not None
        if self.clip == "cluster":
            if not features:
                raise ValueError(
                    f"{self.label}: the task names no layer to take features for clusters from. "
                    "Give its Task features=..., the name of a submodule."
                )
            per = self.slots == "per"
            return clusters(
                None if per else self.size, per=self.size if per else None, features=features
            )
        if self.clip == "core":
            return per_core(self.size, slots="fixed" if self.slots == "fixed" else "position")
        return micro_batches(self.size, slots="random" if self.slots == "random" else "position")

    def rule(self) -> Weighting:
        """Returns the weighting."""
        if self.weighting == "none":
            return uniform()
        if self.weighting == "min":
            return clip_to_min()
        assert self.number is not None
        return _RULES[self.weighting](self.number)

    def pace(self) -> Pacing | None:
        """Returns the pacing, None for an update with every batch."""
        return _pacing(self.pacing)


_RULES: dict[str, Callable[[float], Weighting]] = {
    "clip": clip,
    "per_layer": lambda bound: per_layer(clip(bound)),
    "normalize": normalize,
    "quantile": quantile,
    "scarcity": lambda length: scarcity(length=_whole(length)),
}
_UNBOUNDED = ("none", "min", "scarcity")


def arms_of(
    groupings: str, weightings: str, noises: str, pacings: str = "none"
) -> tuple[list[Arm], list[str]]:
    """Returns the arms of a product of lists, and the combinations left out, each with a reason.

    Args:
        groupings: comma-separated, of `GROUPINGS`.
        weightings: comma-separated, of `WEIGHTINGS`.
        noises: comma-separated noise multipliers.
        pacings: comma-separated, of `PACINGS`.

    Raises:
        ValueError: a word that is not in the list.
    """
    arms: dict[Arm, None] = {}
    skipped: dict[str, None] = {}
    words = (_words(groupings, "grouping"), _words(weightings, "weighting"))
    for group, rule, sigma, pacing in product(
        *words,
        [_number(n, "noise") for n in _words(noises, "noise")],
        _words(pacings, "pacing"),
    ):
        clip_, size, slots = _grouping(group)
        weighting, number = _weighting(rule)
        if sigma < 0:
            raise ValueError(f"noise {sigma:g}: expected a noise multiplier >= 0.")
        if clip_ == "none":
            weighting, number = "none", None
        if sigma > 0 and weighting in _UNBOUNDED:
            what = "none" if clip_ == "none" else f"{group} {rule}"
            why = "no group is bounded by itself, so noise would have no scale"
            skipped[f"{what} noise {sigma:g}: {why}"] = None
            continue
        arm = Arm(clip_, size, slots, weighting, number, sigma, pacing)
        _ = (
            arm.grouping("any"),
            arm.rule(),
            arm.pace(),
        )  # a number out of range is refused here, not in a worker
        arms[arm] = None
    if not arms:
        raise ValueError("No combination of --grouping, --weighting and --noise makes sense.")
    return list(arms), list(skipped)


def _words(text: str, what: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"--{what} is empty.")
    return words


def _grouping(word: str) -> tuple[str, int | None, str]:
    name, *rest = word.split(":")
    slots = {"microbatch": "random", "core": "fixed", "cluster": "per"}.get(name, "")
    if name in ("none", "sample") and not rest:
        return name, 1 if name == "sample" else None, "position"
    if slots and len(rest) in (1, 2) and rest[0].isdigit() and rest[1:] in ([], [slots]):
        return name, int(rest[0]), rest[1] if len(rest) > 1 else "position"
    raise ValueError(f"Unknown grouping {word!r}: expected one of {GROUPINGS}.")


def _weighting(word: str) -> tuple[str, float | None]:
    name, *rest = word.split(":")
    if name == "min" and not rest:
        return "min", None
    if name in _RULES and len(rest) == 1:
        return name, _number(rest[0], "weighting")
    raise ValueError(f"Unknown weighting {word!r}: expected one of {WEIGHTINGS}.")


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError(f"scarcity:{number:g}: expected a whole number of gradients.")
    return int(number)


def _pacing(word: str) -> Pacing | None:
    name, *rest = word.split(":")
    if name == "none" and not rest:
        return None
    if name == "angle" and len(rest) in (1, 2):
        alpha, *cap = (_number(number, "pacing") for number in rest)
        return by_angle(alpha, cap=cap[0] if cap else None)
    raise ValueError(f"Unknown pacing {word!r}: expected one of {PACINGS}.")


def _number(word: str, what: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"--{what}: {word!r} is not a number.") from None
    if not math.isfinite(value):
        raise ValueError(f"--{what}: {word!r} is not finite.")
    return value


def lists_of(
    task: str, grouping: str | None, weighting: str | None, noise: str | None
) -> tuple[Lists, ...]:
    """Returns what was asked for; the task's own list of arms if nothing was."""
    if grouping is weighting is noise is None:
        return DEFAULTS.get(task, _ANY_TASK)
    asked = zip((grouping, weighting, noise), ("none,sample", "clip:1.0", "0"), strict=True)
    first, second, third = (default if word is None else word for word, default in asked)
    return ((first, second, third),)


def together(lists: Sequence[Lists], pacings: str = "none") -> tuple[list[Arm], list[str]]:
    """Returns the arms of several products, in order and without repetition.

    Args:
        lists: the products.
        pacings: comma-separated, of `PACINGS`; all arms are run with each.

    Raises:
        ValueError: a word that is not in its list.
    """
    arms: dict[Arm, None] = {}
    skipped: list[str] = []
    for groupings, weightings, noises in lists:
        more, without = arms_of(groupings, weightings, noises, pacings)
        arms |= dict.fromkeys(more)
        skipped += without
    return list(arms), skipped
