"""What an audit will do with its scores: declared before training, held to afterwards.

A bound on epsilon holds with probability 1 - alpha for one attack, one sign of its score and one
number of guesses or one threshold. Whoever chooses any of these after looking at the scores makes
the bound fire on nothing. So they are written down first, with the coins, and scores that do not
fit what was written down are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audits.intervals import check_alpha, check_count, check_delta

FORMAT = "audits.declaration/1"
Plain: TypeAlias = dict[str, Any]


class Refused(ValueError):
    """Scores that are not what was declared, from which no number may be computed."""


@dataclass(frozen=True)
class Declaration:
    """One attack, how its scores are judged, and the coins that it has to guess.

    Attributes:
        attack: The name of the score.
        sign: 1 if a higher score is more member-like, -1 if a lower one is.
        ids: [n] names of the canaries.
        coins: [n] whether each was inserted.
        repetitions: [n] how often it was, if so. A bound takes those of repetition 1.
        alpha: Failure probability of this bound.
        delta: At which epsilon is bounded.
        tests: Over how many bounds the whole failure probability is shared, this one among them.
        guesses: r: the r/2 highest scores are guessed in, the r/2 lowest out.
        threshold: Scores above it are decided to be in. Either this or `guesses`.
        panel: Hash of the canaries' own manifest, which holds their content.

    Raises:
        ValueError: Fields that disagree in length or are out of range; more guesses than canaries;
            both `guesses` and `threshold`, or none.
    """

    attack: str
    sign: int
    ids: tuple[str, ...]
    coins: tuple[bool, ...]
    repetitions: tuple[int, ...]
    alpha: float
    delta: float
    tests: int = 1
    guesses: int | None = None
    threshold: float | None = None
    panel: str = ""

    def __post_init__(self) -> None:
        """Refuses what could not be judged later, while nothing has been trained yet."""
        n = len(self.ids)
        if not n or len(set(self.ids)) != n:
            raise ValueError(
                f"found {n} ids, {len(set(self.ids))} of them different; expected one name for "
                "each canary, and a canary at least"
            )
        if (len(self.coins), len(self.repetitions)) != (n, n):
            raise ValueError(
                f"found {len(self.coins)} coins and {len(self.repetitions)} repetitions for {n} "
                "ids; expected one for each canary"
            )
        self._check_kinds()
        if self.sign not in (1, -1):
            raise ValueError(f"sign is {self.sign}; expected 1 (higher = in) or -1 (lower = in)")
        check_alpha(self.alpha)
        check_delta(self.delta)
        check_count("tests", self.tests, 1)
        if (self.guesses is None) == (self.threshold is None):
            raise ValueError("declare either a number of guesses or a threshold, and one of them")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}; expected a finite score")
        if self.guesses is not None:
            self._check_guesses(self.guesses)
        elif len(set(self.inserted[self.once].tolist())) < 2:
            raise ValueError(
                f"{int(self.inserted[self.once].sum())} of {int(self.once.sum())} canaries of "
                "repetition 1 are in; a threshold needs some of both kinds. Use more canaries, or "
                "another seed for their coins."
            )

    def _check_kinds(self) -> None:
        """Refuses words for coins and the like, which a manifest written by others may hold."""
        if wrong := [coin for coin in self.coins if type(coin) is not bool]:
            raise ValueError(f"found coin {wrong[0]!r}; expected True (inserted) or False")
        if often := [r for r in self.repetitions if type(r) is not int or r < 1]:
            raise ValueError(f"found repetition {often[0]!r}; expected an int of at least 1")
        for name in ("sign", "tests", "guesses"):
            value = getattr(self, name)
            if type(value) is not int and not (name == "guesses" and value is None):
                raise ValueError(f"{name} is {value!r}; expected an int")
        if self.threshold is not None and type(self.threshold) not in (int, float):
            raise ValueError(f"threshold is {self.threshold!r}; expected a number")

    def _check_guesses(self, guesses: int) -> None:
        once = int(self.once.sum())
        if guesses < 2 or guesses % 2 or guesses > once:
            raise ValueError(
                f"{guesses} guesses are declared for {once} canaries of repetition 1; expected an "
                f"even number from 2 to {once}. Use more canaries or fewer guesses."
            )

    @property
    def once(self) -> NDArray[np.bool_]:
        """[n] the canaries that are in the data at most once, which a bound is about."""
        return np.equal(self.repetitions, 1)

    @property
    def inserted(self) -> NDArray[np.bool_]:
        """[n] the coins."""
        return np.array(self.coins, dtype=np.bool_)

    def manifest(self) -> Plain:
        """All of it as plain values that JSON can hold: to be stored before training."""
        return {"format": FORMAT} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Declaration:
        """The declaration that a manifest holds.

        Raises:
            ValueError: It is of another format, or lacks a part.
        """
        if (found := manifest.get("format")) != FORMAT:
            raise ValueError(f"found format {found!r}, expected {FORMAT!r}")
        fields = {name: value for name, value in manifest.items() if name != "format"}
        if missing := set(cls.__dataclass_fields__) ^ set(fields):
            raise ValueError(f"the fields {sorted(missing)} are missing or unknown")
        for name in ("ids", "coins", "repetitions"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    def join(self, scores: Mapping[str, float], *, attack: str, sign: int) -> NDArray[np.float64]:
        """[n] the scores in the order of `ids`, higher = more member-like.

        Args:
            scores: id -> score, one for every canary that was declared and for no other.
            attack: What made the scores.
            sign: 1 if higher is more member-like.

        Raises:
            Refused: Another attack or sign than was declared, ids that are missing or unknown, or
                scores that are NaN.
        """
        if (attack, sign) != (self.attack, self.sign):
            raise Refused(
                f"the scores are of attack {attack!r} with sign {sign:+d}; {self.attack!r} with "
                f"sign {self.sign:+d} was declared before training. An attack that is chosen "
                "afterwards needs a declaration and a training run of its own."
            )
        if missing := [name for name in self.ids if name not in scores]:
            raise Refused(
                f"{len(missing)} of {len(self.ids)} canaries have no score, {missing[0]!r} for "
                "one; score every canary that was declared, whatever its coin"
            )
        if unknown := sorted(scores.keys() - set(self.ids)):
            raise Refused(
                f"{len(unknown)} scores belong to no canary that was declared, {unknown[0]!r} for "
                "one; these are the scores of another panel"
            )
        joined = np.array([float(scores[name]) for name in self.ids])
        if np.isnan(joined).any():
            first = self.ids[int(np.flatnonzero(np.isnan(joined))[0])]
            raise Refused(
                f"{int(np.isnan(joined).sum())} scores are NaN, that of {first!r} for one; a "
                "diverged model has no ranking"
            )
        return self.sign * joined


def by_id(ids: Sequence[str], scores: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Id -> score.

    Raises:
        Refused: Not one score for each id, or an id twice.
    """
    if len(ids) != len(scores):
        raise Refused(f"found {len(scores)} scores for {len(ids)} ids; expected one for each")
    named = {name: float(score) for name, score in zip(ids, scores, strict=True)}
    if len(named) != len(ids):
        raise Refused(f"found {len(ids)} ids, {len(named)} of them different; expected one each")
    return named
