"""An arm of a sweep: which clipping, how strong; its name, its place, its colour."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from reports.rows import Row, number, text

GRANULARITIES = ("none", "sample", "microbatch", "core", "cluster")

# Okabe and Ito's palette: told apart with colour-blind eyes and in grey print.
COLORS = {
    "none": "#4D4D4D",
    "sample": "#0072B2",
    "microbatch": "#D55E00",
    "core": "#009E73",
    "cluster": "#CC79A7",
}

UNWEIGHTED = frozenset({"none", "uniform"})
# A fixed rule has its bound before it sees a gradient; every other rule takes it from the data.
FIXED = UNWEIGHTED | {"clip", "normalize", "per_layer"}
RUN_NAME_LIMIT = 20
_NUMBER = {
    "normalize": "gamma",
    "quantile": "q",
    "scarcity": "L",
}  # what the column C holds for these
_SHORT = {
    "microbatch": "mb",
    "normalize": "norm",
    "quantile": "quant",
    "per_layer": "layer",
    "cluster": "cl",
    "scarcity": "queue",
}


@dataclass(frozen=True)
class Arm:
    """The settings that seeds of one arm share.

    `size` counts samples, cores for `core`, clusters for `cluster` (samples of one, if `slots` is
    `per`); `slots` is `random`, `fixed` or `per`, or empty for groups by position. `pacing` is
    empty where every batch is an update.
    """

    task: str
    clip: str
    weighting: str
    C: float | None
    sigma: float
    size: int | None
    slots: str = ""
    pacing: str = ""

    @property
    def family(self) -> str:
        """One of none, fixed, adaptive, noise: what sets the rule apart from its neighbours."""
        if self.sigma > 0:
            return "noise"
        if self.clip == "none":
            return "none"
        return "fixed" if self.weighting in FIXED else "adaptive"

    @property
    def rule(self) -> str:
        """How groups are weighed, without the grouping: `C=0.1`, `min`, `C=1 sigma=0.5`."""
        words = [] if self.weighting in ("none", "clip") else [self.weighting]
        words += [] if self.C is None else [f"{_NUMBER.get(self.weighting, 'C')}={self.C:g}"]
        words += [f"sigma={self.sigma:g}"] if self.sigma > 0 else []
        words += [self.pacing] if self.pacing else []
        return " ".join(words)

    @property
    def grouping(self) -> str:
        """Which gradients are clipped: `no clipping`, `sample`, `microbatch 4`, `core 8`."""
        if self.clip == "none":
            return "no clipping"
        sized = self.clip != "sample" and self.size is not None
        return f"{self.clip} {self.size} {self.slots}".strip() if sized else self.clip

    @property
    def group_order(self) -> tuple[int, int]:
        """Sorts by growing group: none, sample, micro-batches, then cores from many to few."""
        size = self.size or 0
        return GRANULARITIES.index(self.clip), -size if self.clip == "core" else size

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts the lines of a table: by task, fixed before adaptive, noise last."""
        rule = (self.weighting, self.C or 0.0, self.sigma)
        block = ("none", "fixed", "adaptive", "noise").index(self.family)
        fixed = self.weighting not in FIXED
        return self.task, block, fixed, *self.group_order, self.slots, *rule, self.pacing


def arm_of(row: Row) -> Arm:
    """Returns the arm that a run, or a line of a summary, belongs to.

    Raises:
        ValueError: If `clip` is missing or unknown.
    """
    clip = text(row, "clip")
    if clip not in GRANULARITIES:
        raise ValueError(
            f"clip is {clip!r}, expected one of {', '.join(GRANULARITIES)}; "
            "every row names the granularity of its clipping"
        )
    weighting = "none" if clip == "none" else text(row, "weighting", missing="clip")
    bound, size, sigma = number(row, "C"), number(row, "mb"), number(row, "sigma")
    return Arm(
        task=text(row, "task"),
        clip=clip,
        weighting=weighting,
        C=None if math.isnan(bound) or weighting in UNWEIGHTED else bound,
        sigma=0.0 if math.isnan(sigma) else sigma,
        size={"none": None, "sample": 1}.get(clip, None if math.isnan(size) else int(size)),
        slots=text(row, "slots").replace("position", ""),
        pacing=text(row, "pacing").replace("none", ""),
    )


def arm_name(row: Row) -> str:
    """Returns the arm in words, for tables and pictures: `microbatch 4 C=0.1`."""
    arm = arm_of(row)
    return f"{arm.grouping} {arm.rule}".strip()


def shared_settings(rows: Iterable[Row]) -> frozenset[str]:
    """Returns which of weighting, C and sigma all clipped runs share: no name needs to say them."""
    arms = [arm for arm in map(arm_of, rows) if arm.clip != "none"]
    return frozenset(
        key
        for key in ("weighting", "C", "sigma")
        if len({getattr(arm, key) for arm in arms} - {None}) <= 1
    )


def run_name(row: Row, constant: Collection[str] = ()) -> str:
    """Returns a run's name of at most 20 characters: `sample s1 seed0`.

    Args:
        row: The run, or as much of its row as is known before it starts.
        constant: Settings to leave out, because no run differs in them (`shared_settings`).
    """
    arm, seed = arm_of(row), f"seed{number(row, 'seed'):g}"
    words = [_SHORT.get(arm.clip, arm.clip) + (f"{arm.size}" if arm.clip in _SIZED else "")]
    words += [arm.slots] if arm.slots else []
    if arm.weighting not in ("none", "clip") and "weighting" not in constant:
        words.append(_SHORT.get(arm.weighting, arm.weighting))
    if arm.C is not None and "C" not in constant:
        words.append(f"{_NUMBER.get(arm.weighting, 'C')}{arm.C:g}")
    if arm.sigma > 0 and "sigma" not in constant:
        words.append(f"s{arm.sigma:g}")
    words += [arm.pacing] if arm.pacing else []
    return _fit(" ".join(words), seed)


_SIZED = frozenset({"microbatch", "core", "cluster"})


def _fit(body: str, seed: str) -> str:
    """Returns `body seed` shortened only as far as the limit asks for; the seed always stays."""
    attempts: tuple[Callable[[], str], ...] = (
        lambda: f"{body} {seed}",
        lambda: f"{_bare(body)} {seed}",
        lambda: f"{_bare(body)} {seed.replace('seed', '#')}",
    )
    for attempt in attempts:
        if len(attempt()) <= RUN_NAME_LIMIT:
            return attempt()
    tail = seed.replace("seed", "#")
    return f"{_bare(body)[: RUN_NAME_LIMIT - len(tail) - 1].rstrip()} {tail}"


def _bare(body: str) -> str:
    """Returns the body with 0.5 written as .5, which MLflow's narrow column has room for."""
    return body.replace("C0.", "C.").replace("s0.", "s.")
