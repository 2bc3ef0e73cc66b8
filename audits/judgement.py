"""What the scores of an audit show, judged as declared, with the coins flipped again beside it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audits.declaration import Declaration
from audits.intervals import Bound, upper

FLIPS = 999
"""How often the coins are flipped again; p-values are multiples of 1 / (FLIPS + 1)."""
_STREAM = tuple(b"audits.judgement.flips")

Guessed = Callable[[int, int, int], Bound]
"""(canaries, guesses, correct) -> the bound."""

Decided = Callable[[int, int, int, int], Bound]
"""(tp, fp, n_in, n_out) -> the bound."""


@dataclass(frozen=True)
class Judgement:
    """The bound, and what chance would have made of the same scores.

    Attributes:
        bound: On epsilon.
        coin_p: Share of flips of the coins, independent of training, that agree with the scores at
            least as well as the true coins do: small where the model knows its members.
        fired: Share of these flips in which the same bound would have been above 0. It says
            something of the audit and nothing of the model, and is at most alpha but for the luck
            of so few flips.
    """

    bound: Bound
    coin_p: float
    fired: float


def guess(declared: Declaration, scores: NDArray[np.float64], bound: Guessed) -> Judgement:
    """The judgement of the declared number of guesses.

    Of scores that are equal, those of earlier ids are guessed out: ids say nothing of coins.

    Args:
        declared: With a number of guesses.
        scores: [n] as joined by the declaration.
        bound: A bound from one run.

    Raises:
        ValueError: A threshold was declared instead.
    """
    if declared.guesses is None:
        raise ValueError("a threshold was declared, not a number of guesses; use `decide`")
    once, r = np.flatnonzero(declared.once), declared.guesses
    order = np.argsort(scores[once], kind="stable")
    out, into = order[: r // 2], order[len(order) - r // 2 :]

    def correct(coins: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.asarray((~coins[..., out]).sum(-1) + coins[..., into].sum(-1))

    true = int(correct(declared.inserted[once]))
    by_chance = correct(_flips(len(once)))
    fires = bisect_left(range(r + 1), True, key=lambda v: bound(len(once), r, v).epsilon > 0)
    return Judgement(
        bound(len(once), r, true), _p_value(by_chance >= true), float((by_chance >= fires).mean())
    )


def decide(declared: Declaration, scores: NDArray[np.float64], bound: Decided) -> Judgement:
    """The judgement of the declared threshold: each canary is one independent trial.

    Args:
        declared: With a threshold.
        scores: [n] as joined by the declaration.
        bound: A bound from many trials.

    Raises:
        ValueError: A number of guesses was declared instead.
    """
    if declared.threshold is None:
        raise ValueError("a number of guesses was declared, not a threshold; use `guess`")
    once = declared.once
    above, coins = scores[once] > declared.sign * declared.threshold, declared.inserted[once]
    counts = _counts(above, coins)
    flipped = [_counts(above, flip) for flip in _flips(len(above))]
    usable = [chance for chance in flipped if 0 not in chance[2:]]
    by_chance = np.array([_advantage(chance) for chance in usable])
    return Judgement(
        bound(*counts),
        _p_value(by_chance >= _advantage(counts)),
        float(np.mean([_tells_apart(chance, declared.alpha) for chance in usable])),
    )


class _Counts(NamedTuple):
    tp: int
    fp: int
    n_in: int
    n_out: int


def _counts(above: NDArray[np.bool_], coins: NDArray[np.bool_]) -> _Counts:
    """Canaries decided to be in among those in and those out, and how many of each there are."""
    n_in = int(coins.sum())
    return _Counts(int((above & coins).sum()), int((above & ~coins).sum()), n_in, len(coins) - n_in)


def _advantage(seen: _Counts) -> float:
    return seen.tp / seen.n_in - seen.fp / seen.n_out


def _tells_apart(seen: _Counts, alpha: float) -> bool:
    """Whether the limits of both error rates, at alpha / 2 each, exclude guessing.

    Every bound from error rates is above 0 if they do and, but for delta, only then.
    """
    misses = upper(seen.n_in - seen.tp, seen.n_in, alpha / 2)
    return bool(upper(seen.fp, seen.n_out, alpha / 2) + misses < 1)


def _flips(n: int) -> NDArray[np.bool_]:
    """[FLIPS, n] fair coins, always the same: what is shown must not depend on luck twice.

    From a stream that nobody meets by seeding a generator with a small number, as the true coins
    may have been: they must not be among the flips.
    """
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=_STREAM))
    flips: NDArray[np.bool_] = rng.integers(0, 2, (FLIPS, n)) == 1
    return flips


def _p_value(as_good: NDArray[np.bool_]) -> float:
    return float((1 + as_good.sum()) / (1 + len(as_good)))
