"""Running a loop with one planted bug at a time, and counting how often the audit catches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audits.intervals import wilson
from audits.self_test.verdict import Design, Observed, Verdict, judge

_CAUGHT = 0.95  # share of runs in which a planted bug must be caught
_LEVEL = 0.05  # of the interval for that share

Finder = Literal["bound", "noise", "nothing"]
"""What must catch a bug: the lower bound, the test of the noise, or nothing, as there is none."""


class Probe(Protocol):
    """An engine factory for one run of a loop, which afterwards shows what canaries saw."""

    def __call__(self) -> Any:
        """An engine, to be used like `dpclip.PrivacyEngine`."""

    def observed(self, updates: NDArray[np.float64]) -> Observed:
        """What canaries saw; raises ValueError for updates [T, d] that do not fit the steps."""


Loop = Callable[[Callable[[], Any], Any, int], Any]
"""(engine factory, dataset, seed) -> updates [T, d]: the flattened `p.grad` of each step."""


@dataclass(frozen=True)
class Case:
    """One bug.

    Attributes:
        name: of it.
        probe: seed -> engines that have it.
        found_by: what must catch it.
    """

    name: str
    probe: Callable[[int], Probe]
    found_by: Finder


@dataclass(frozen=True)
class Row:
    """A case, and the verdicts on all its runs.

    Attributes:
        case: that was run.
        verdicts: [n], one for each run.
    """

    case: Case
    verdicts: tuple[Verdict, ...]

    @property
    def runs(self) -> int:
        """How often it was run, n."""
        return len(self.verdicts)

    @property
    def exceeding(self) -> int:
        """Runs whose lower bound is above the claim."""
        return sum(verdict.exceeds for verdict in self.verdicts)

    @property
    def stale(self) -> int:
        """Runs whose noise is not fresh, or too small."""
        return sum(verdict.stale for verdict in self.verdicts)

    @property
    def caught(self) -> int:
        """Runs in which what must catch the bug did; where there is none, false alarms."""
        return self.stale if self.case.found_by == "noise" else self.exceeding

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval for the share of runs that are caught."""
        return wilson(self.caught, self.runs, _LEVEL)

    @property
    def missed(self) -> bool:
        """Whether the audit fails: a bug caught in clearly fewer than 95 % of runs."""
        return self.case.found_by != "nothing" and self.interval[1] < _CAUGHT

    def mean(self, which: Literal["bound", "steinke", "trials"]) -> float:
        """Mean epsilon of a bound over the runs."""
        return float(np.mean([getattr(verdict, which).epsilon for verdict in self.verdicts]))


def trial(loop: Loop, dataset: Any, case: Case, *, runs: int, seed: int, design: Design) -> Row:
    """Returns the verdicts on so many runs of a loop under one case.

    Args:
        loop: whose steps are looked at.
        dataset: handed to it.
        case: what its engines have wrong.
        runs: how many, at least 1.
        seed: run i of a case has a seed of its own, made of this one and i.
        design: how each run is judged.

    Raises:
        ValueError: what a loop returned does not fit what its engine did, or cannot be judged.
    """
    if runs < 1:
        raise ValueError(f"found {runs} runs; expected at least 1")
    return Row(case, tuple(once(loop, dataset, case, _seed(seed, i), design) for i in range(runs)))


def once(loop: Loop, dataset: Any, case: Case, seed: int, design: Design) -> Verdict:
    """Returns the verdict on one run; arguments and errors as in `trial`."""
    probe = case.probe(seed)
    return judge(probe.observed(_updates(loop(probe, dataset, seed))), design)


def shared(design: Design) -> Design:
    """The design of a run that is judged by its bound and by its noise: each has half of alpha."""
    return replace(design, alpha=design.alpha / 2)


def _updates(returned: Any) -> NDArray[np.float64]:
    if not isinstance(returned, Tensor) or returned.dim() != 2 or not returned.is_floating_point():
        found = (
            f"a tensor of {returned.dtype} and shape {list(returned.shape)}"
            if isinstance(returned, Tensor)
            else type(returned).__name__
        )
        raise ValueError(
            f"the loop returned {found}; expected a float tensor [steps, coordinates]: after each "
            "optimizer.step(), the p.grad of all parameters, flattened in their order"
        )
    updates = returned.detach().cpu().double().numpy()
    if bad := int((~np.isfinite(updates)).any(1).sum()):
        raise ValueError(f"the loop returned {bad} steps with NaN or infinite updates; it diverged")
    return np.asarray(updates)


def _seed(seed: int, run: int) -> int:
    # Of 32 bits, since numpy's global generator, which a loop may seed, takes no more.
    return int(np.random.SeedSequence([seed, run]).generate_state(1)[0])
