"""What a training run remembers of the canaries among its records."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import percentileofscore
from torch import Tensor, nn
from torch.utils.data import default_collate

from audits import exposure, power, scoring
from audits.bounds import default_guesses, steinke
from audits.canary_table import canary_table
from audits.declaration import Declaration, by_id
from audits.error_ranks import ErrorRanks, error_ranks
from audits.judgement import Judgement, guess
from audits.planted import Planted
from audits.safe import Safe
from audits.secret_ranks import secret_ranks
from audits.tasks.task import Task
from audits.trial import Outcome, Privatize, Scalar, Setting, train
from audits.verdict import verdict

ATTACK = "exposure"
TIERS = (1, 2, 4, 8, 16)
_NORM_RECORDS = 256  # records whose gradient norms stand for the data's

Norms = Callable[[nn.Module, Callable[[nn.Module, Any], Tensor], Any], Tensor]
"""(model, losses, batch) -> [B] gradient norms."""


def declare(planted: Planted, setting: Setting) -> Declaration:
    """Returns what the audit will do: guess by exposure, a third or a tenth of the canaries.

    Raises:
        ValueError: there are fewer than two canaries of repetition 1.
    """
    once = int((planted.repetitions == 1).sum())
    if once < 2:
        raise ValueError(
            f"There are {once} canaries of repetition 1; expected at least 2, one to be guessed in "
            "and one out. Use more canaries."
        )
    return Declaration(
        attack=ATTACK,
        sign=1,
        ids=tuple(planted.ids),
        coins=tuple(planted.inserted.tolist()),
        repetitions=tuple(planted.repetitions.tolist()),
        alpha=setting.alpha,
        delta=setting.delta,
        tests=setting.tests,
        guesses=max(2, default_guesses(once) // 2 * 2),
        panel=planted.manifest,
    )


def audit(
    task: Task,
    planted: Planted,
    setting: Setting,
    privatize: Privatize,
    norms: Norms,
    safe: Safe,
) -> Outcome:
    """Returns the outcome of training on a planted set and looking for the canaries.

    The attack is declared and kept in the safe before training, and judged by what is in the safe
    afterwards.

    Raises:
        Diverged: the loss is not finite.
        Refused: scores that are not what was declared.
        ValueError: too few canaries, or another manifest in the safe.
    """
    manifest = safe.keep(declare(planted, setting).manifest())
    before = scoring.score(task, task.model(setting.seed), planted)
    trained = train(task, planted.train, setting, privatize)
    model = trained.model
    assert model is not None
    after = scoring.score(task, model, planted)
    ranks = secret_ranks(task, model, planted)
    errors = error_ranks(task, model, planted)
    out = ~planted.inserted
    once = after.bits[planted.tier(1)]
    interval = exposure.mean(once) if len(once) else None
    row = trained.row | {
        **task.measured(model, task.test),
        "exposure": _mean(once),
        "exp_low": float(interval.low) if interval else math.nan,
        "exp_high": float(interval.high) if interval else math.nan,
        **{f"exp_{tier}": _mean(after.bits[planted.tier(tier)]) for tier in TIERS},
        "exp_out": _mean(after.bits[out]),
        "exp_before": _mean(before.bits),
        "before_p": before.null_p,
        "exp_ceiling": after.ceiling,
        "exp_null": after.null,
        "norm_pct": norm_percentile(task, model, planted, norms),
        **_area("auc", after, planted),
        **_area("auc_before", before, planted),
        "budget": planted.budget,
        "n_in": int(planted.inserted.sum()),
        "n_out": int(out.sum()),
        "references": after.references,
        "searched": int(ranks.searched.sum()),
        "extracted": int(ranks.extracted.sum()),
        **_by_errors(errors, planted),
        "manifest": manifest,
    }
    row |= judged(safe.declared(manifest), by_id(planted.ids, after.bits), row["eps"])
    row["verdict"] = verdict(row)
    return Outcome(row, trained.series, canary_table(planted, before, after, ranks, errors), model)


def judged(declared: Declaration, scores: dict[str, float], claim: Scalar) -> dict[str, Scalar]:
    """Returns the columns of a row that say what exposures show about epsilon.

    Raises:
        Refused: scores that are not what was declared.
    """
    seen = judge(declared, scores)
    assert isinstance(claim, float)
    prospects = power.of_guesses(
        canaries=seen.bound.counts["canaries"],
        guesses=seen.bound.counts["guesses"],
        claim=claim,
        delta=declared.delta,
        alpha=declared.alpha,
    )
    return {
        "eps_lb": seen.bound.epsilon,
        "eps_lb_by": "records",
        "eps_lb_ceiling": prospects.ceiling,
        "eps_lb_expected": prospects.expected,
        "coin_p": seen.coin_p,
        "coin_fired": seen.fired,
        "n_tests": declared.tests,
    }


def judge(declared: Declaration, scores: dict[str, float]) -> Judgement:
    """Returns the judgement of exposures by Steinke, Nasr and Jagielski's bound.

    Raises:
        Refused: scores that are not what was declared.
    """
    bound = partial(_steinke, declared.delta, declared.alpha)
    return guess(declared, declared.join(scores, attack=ATTACK, sign=1), bound)


def _area(name: str, scored: scoring.Scored, planted: Planted) -> dict[str, Scalar]:
    found = scoring.auc(scored, planted)
    if found is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _steinke(delta: float, alpha: float, canaries: int, guesses: int, correct: int) -> Any:
    return steinke(canaries=canaries, guesses=guesses, correct=correct, delta=delta, alpha=alpha)


def norm_percentile(task: Task, model: nn.Module, planted: Planted, norms: Norms) -> float:
    """Returns the median percentile (0..100) of canaries' gradient norms among the data's.

    Taken at the end of training, over canaries that were held out: what an inserted one looked
    like when it was new. An inserted canary that is memorized has a small gradient because of it.
    """
    out = np.flatnonzero(~planted.inserted)
    if not len(out):
        return math.nan
    rng = np.random.default_rng(0)
    fresh = [planted.records[i] for i in _few(out, rng)]
    data = [task.train[i] for i in _few(np.arange(len(task.train)), rng)]  # type: ignore[arg-type]
    theirs, mine = (_norms(task, model, records, norms) for records in (data, fresh))
    return float(np.median(percentileofscore(theirs, mine, kind="mean")))


def _norms(task: Task, model: nn.Module, records: list[Any], norms: Norms) -> NDArray[np.float64]:
    """Returns [n] gradient norms in the records' order, of as many at once as training takes."""
    collate, found = task.collate or default_collate, np.empty(len(records))
    for part in task.parts(records, _NORM_RECORDS):
        batch = collate([records[i] for i in part])
        found[part] = norms(model, task.losses, batch).numpy()
    return found


def _by_errors(errors: ErrorRanks, planted: Planted) -> dict[str, Scalar]:
    """Returns the columns that only tasks with transcripts have."""
    if not errors.known.any():
        return {}
    once = errors.bits[planted.tier(1) & errors.known]
    found = exposure.mean(once) if len(once) else None
    return {
        "exp_error": _mean(once),
        "exp_error_low": float(found.low) if found else math.nan,
        "exp_error_high": float(found.high) if found else math.nan,
        "error_in": _mean(errors.rate[planted.inserted & errors.known]),
        "error_out": _mean(errors.held_out[errors.known]),
    }


def _few(numbers: Any, rng: np.random.Generator) -> list[int]:
    """Returns some of the numbers at random: the first are all of one family."""
    chosen = rng.choice(numbers, min(len(numbers), _NORM_RECORDS), replace=False)
    return [int(number) for number in chosen]


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan
