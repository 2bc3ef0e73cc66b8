"""From the coins and the scores of an audit to its bound, by what was fixed before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audits import bounds
from audits.intervals import Bound, upper

ALPHA = 0.05
DELTA = 1e-5

Coins = NDArray[np.bool_]
Values = NDArray[np.float64]
Method = Callable[[Coins, Values], float]


def by_guesses(bound: Callable[..., Bound], share: float | None = None, **fixed: Any) -> Method:
    """Returns the bound from guesses: the top and the bottom scores, as many of either.

    Args:
        bound: takes canaries, guesses and correct.
        share: of the canaries that is guessed; by default what `default_guesses` says.
        fixed: what else the bound takes.
    """
    cached = lru_cache(maxsize=None)(
        lambda m, r, v: bound(canaries=m, guesses=r, correct=v, **fixed).epsilon
    )

    def method(coins: Coins, scores: Values) -> float:
        m = len(coins)
        r = bounds.default_guesses(m) if share is None else round(share * m)
        return float(cached(m, r, right(coins, scores, r)))

    return method


def right(coins: Coins, scores: Values, guesses: int) -> int:
    """Returns the right guesses of `guesses`, half of them from either end of the scores."""
    order = np.argsort(scores)
    top = guesses - guesses // 2
    return int((~coins[order[: guesses // 2]]).sum() + coins[order[len(coins) - top :]].sum())


def by_answers(bound: Callable[..., Bound], **fixed: Any) -> Method:
    """Returns the bound from guesses that are the scores themselves, 1 for "in"."""
    cached = lru_cache(maxsize=None)(
        lambda m, v: bound(canaries=m, guesses=m, correct=v, **fixed).epsilon
    )
    return lambda coins, scores: float(cached(len(coins), int(((scores > 0.5) == coins).sum())))


def by_threshold(bound: Callable[..., Bound], threshold: float, **fixed: Any) -> Method:
    """Returns the bound from a threshold: scores of at least so much are called "in".

    Args:
        bound: takes tp, fp, n_in and n_out.
        threshold: declared before.
        fixed: what else the bound takes.
    """
    cached = lru_cache(maxsize=None)(lambda *counts: bound(**_named(counts), **fixed).epsilon)

    def method(coins: Coins, scores: Values) -> float:
        called = scores >= threshold
        n_in = int(coins.sum())
        tp, fp = int((called & coins).sum()), int((called & ~coins).sum())
        return float(cached(tp, fp, n_in, len(coins) - n_in))

    return method


def _named(counts: tuple[int, ...]) -> dict[str, int]:
    return dict(zip(("tp", "fp", "n_in", "n_out"), counts, strict=True))


def by_all_thresholds(bound: Callable[..., Bound], **fixed: Any) -> Method:
    """Returns the bound that pays for all thresholds."""
    return lambda coins, scores: (
        bound(scores_in=scores[coins], scores_out=scores[~coins], **fixed).epsilon
    )


def best_of(methods: Sequence[Method]) -> Method:
    """Returns the largest of several bounds on the same scores, which is none."""
    return lambda coins, scores: max(method(coins, scores) for method in methods)


def best_threshold(coins: Coins, scores: Values) -> float:
    """Returns the largest `clopper_pearson` of all thresholds, which is no bound."""
    inside, outside = np.sort(scores[coins]), np.sort(scores[~coins])
    t = np.concatenate([inside, outside])
    misses = upper(np.searchsorted(inside, t), len(inside), ALPHA / 2)
    alarms = upper(len(outside) - np.searchsorted(outside, t), len(outside), ALPHA / 2)
    ratios = np.concatenate([(1 - misses - DELTA) / alarms, (1 - alarms - DELTA) / misses])
    return math.log(max(1.0, float(ratios.max())))


def of_attack(method: Method, attack: Callable[[Values], Values]) -> Method:
    """Returns a method for another attack's scores, made from these."""
    return lambda coins, scores: method(coins, attack(scores))
