"""What a training run shows of gradient canaries: enough of them to test the epsilon it claims.

Records that act as canaries are few, since they are part of the data; a claim of ordinary size is
beyond them. Gradient canaries enter after clipping, one coordinate each, and a thousand of them are
independent trials of the claim in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audits import dirac, power
from audits.claimed_curve import subsampled
from audits.declaration import Declaration, by_id
from audits.intervals import Bound
from audits.judgement import decide
from audits.safe import Safe
from audits.tasks.task import Task
from audits.trial import Privatize, Scalar, Setting, train


class Claimed(NamedTuple):
    """The mechanism that a run claims to be.

    Attributes:
        rate: q.
        steps: T.
        noise_multiplier: sigma.
    """

    rate: float
    steps: int
    noise_multiplier: float


class GradientCanaries(NamedTuple):
    """Canaries that a training run was given, as far as an audit needs to know.

    Attributes:
        ids: [m] their names.
        coins: [m] which of them are in.
        observed: after training, -> [T, m] what was released at each one's coordinate, less what
            the data put there, in units of the claimed sensitivity.
        beside: the same, [T, k], at coordinates that none of them owns.
        panel: hash of what they are made from.
    """

    ids: Sequence[str]
    coins: NDArray[np.bool_]
    observed: Callable[[], NDArray[np.float64]]
    beside: Callable[[], NDArray[np.float64]]
    panel: str


def declare(planted: GradientCanaries, setting: Setting) -> Declaration:
    """Returns what the audit will do: decide by the likelihood ratio.

    Raises:
        ValueError: all coins fell alike, or there are fewer than two.
    """
    return Declaration(
        attack=dirac.ATTACK,
        sign=1,
        ids=tuple(planted.ids),
        coins=tuple(bool(coin) for coin in planted.coins),
        repetitions=(1,) * len(planted.ids),
        alpha=setting.alpha,
        delta=setting.delta,
        tests=setting.tests,
        threshold=dirac.THRESHOLD,
        panel=planted.panel,
    )


def prospects(canaries: int, claimed: Claimed, claim: float, setting: Setting) -> power.Power:
    """Returns what so many gradient canaries, half of them in, can show about a claim."""
    planned, half = _plan(canaries, claimed, setting.alpha), canaries // 2
    expected = _bound(
        claimed,
        setting.delta,
        setting.alpha,
        round(half * planned.tpr),
        round(half * planned.fpr),
        half,
        canaries - half,
    )
    return power.of_threshold(expected, claim)


def audit(
    task: Task,
    records: Any,
    setting: Setting,
    privatize: Privatize,
    planted: GradientCanaries,
    claimed: Claimed,
    safe: Safe,
) -> dict[str, Scalar]:
    """Returns the columns of a row that say what gradient canaries show about epsilon.

    Args:
        task: what is trained, without regard to its canary families.
        records: what it is trained on.
        setting: how.
        privatize: makes the run private and plants the canaries in it.
        planted: these canaries.
        claimed: the mechanism that the run claims to be.
        safe: keeps the declaration.

    Raises:
        Diverged: the loss is not finite.
        Refused: scores that are not what was declared.
        ValueError: the run took other steps, or drew at another rate, than was claimed.
    """
    manifest = safe.keep(declare(planted, setting).manifest())
    row = train(task, records, setting, privatize).row
    if (row["q"], row["steps"]) != (claimed.rate, claimed.steps):
        raise ValueError(
            f"The run took {row['steps']} steps at q = {row['q']}, and {claimed.steps} at "
            f"{claimed.rate} were declared. The audit of another mechanism says nothing of it."
        )
    scores = dirac.scores(
        planted.observed(),
        planted.beside(),
        rate=claimed.rate,
        noise_multiplier=claimed.noise_multiplier,
        alpha=setting.alpha,
    )
    return judged(safe.declared(manifest), claimed, by_id(planted.ids, scores)) | {
        "lb_manifest": manifest,
        "lb_canaries": len(planted.ids),
    }


def judged(declared: Declaration, claimed: Claimed, scores: dict[str, float]) -> dict[str, Scalar]:
    """Returns the columns of a row that say what the scores show about epsilon.

    Raises:
        Refused: scores that are not what was declared.
    """
    bound = partial(_bound, claimed, declared.delta, declared.alpha)
    seen = decide(declared, declared.join(scores, attack=dirac.ATTACK, sign=1), bound)
    planned = _plan(len(declared.ids), claimed, declared.alpha)
    n_in, n_out = (seen.bound.counts[name] for name in ("n_in", "n_out"))
    expected = bound(round(n_in * planned.tpr), round(n_out * planned.fpr), n_in, n_out)
    return {
        "eps_lb": seen.bound.epsilon,
        "eps_lb_by": "gradient canaries",
        "eps_lb_ceiling": seen.bound.ceiling,
        "eps_lb_expected": expected.epsilon,
        "coin_p": seen.coin_p,
        "coin_fired": seen.fired,
        "n_tests": declared.tests,
    }


def _plan(canaries: int, claimed: Claimed, alpha: float) -> dirac.Plan:
    return dirac.plan(
        canaries=canaries,
        rate=claimed.rate,
        steps=claimed.steps,
        noise_multiplier=claimed.noise_multiplier,
        alpha=alpha,
    )


def _bound(
    claimed: Claimed, delta: float, alpha: float, tp: int, fp: int, n_in: int, n_out: int
) -> Bound:
    return subsampled(
        tp=tp,
        fp=fp,
        n_in=n_in,
        n_out=n_out,
        rate=claimed.rate,
        steps=claimed.steps,
        delta=delta,
        alpha=alpha,
    )
