"""The robust membership inference attack (RMIA, Zarifzadeh, Liu and Shokri 2024).

A record is compared with a population of records that nobody trained on: the score is the share of
them that its likelihood ratio beats. With k of them there are k + 1 different scores, and many
records share the highest: small false-positive rates need a large population.

Signals are log probabilities: `log_confidence(phi)` of a classifier, the mean log probability of a
text's tokens for a language model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from audits.intervals import Scores
from audits.membership.sides import Observed, need_models, observed

_Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Population:
    """Records that the target model was not trained on.

    Attributes:
        target: [k] log probabilities under the target model.
        shadows: [M, k] under the shadow models.
        inside: [M, k] booleans; None where no shadow model was trained on any of them.
    """

    target: Scores
    shadows: Scores
    inside: Any = None

    def observed(self) -> Observed:
        """The signals, checked; errors as in `observed`."""
        inside = np.zeros(np.shape(self.shadows), np.bool_) if self.inside is None else self.inside
        return _observed(self.target, self.shadows, inside)


def rmia_online(
    target: Scores,
    shadows: Scores,
    inside: Any,
    population: Population,
    gamma: float = 1.0,
    a: float = 0.3,
) -> NDArray[np.float64]:
    """Scores [n]: `mean_z 1[(p_x / pr_x) / (p_z / pr_z) >= gamma]`, `pr = (p_in + p_out) / 2`.

    p_in and p_out are means over the shadow models with and without the record.

    Args:
        target: [n] log probabilities under the audited model.
        shadows: [M, n] under the shadow models.
        inside: [M, n] booleans.
        population: Records to compare with. Those that are in no shadow model get `pr` as in
            `rmia_offline`.
        gamma: At least 1: how much more likely a record must be than one of the population.
        a: As in `rmia_offline`, for the population only.

    Raises:
        ValueError: Not finite or above 0, shapes that do not fit, a record that is in all shadow
            models or in none, or gamma or a outside its range.
    """
    _check(gamma, a)
    x, z = _pair(_observed(target, shadows, inside), population.observed())
    need_models("with", x.inside, 1)
    ratio_z = z.target - np.where(z.inside.any(0), _both(z), _interpolated(z, a))
    return _beaten(x.target - _both(x), ratio_z, gamma)


def rmia_offline(
    target: Scores,
    shadows: Scores,
    inside: Any,
    population: Population,
    gamma: float = 1.0,
    a: float = 0.3,
) -> NDArray[np.float64]:
    """Scores [n] as `rmia_online`, from models without the record: `pr = ((1+a) p_out + 1-a) / 2`.

    p_out is the mean over all shadow models without the record; the line stands for the models
    with it.

    Args:
        target: As in `rmia_online`.
        shadows: As in `rmia_online`; models with a record do not count for it.
        inside: As in `rmia_online`.
        population: As in `rmia_online`, with the same `pr`.
        gamma: As in `rmia_online`.
        a: In [0, 1]; near 1 where models with and without a record hardly differ.

    Raises:
        ValueError: As `rmia_online`, of the models without the record.
    """
    _check(gamma, a)
    x, z = _pair(_observed(target, shadows, inside), population.observed())
    return _beaten(x.target - _interpolated(x, a), z.target - _interpolated(z, a), gamma)


def _both(seen: Observed) -> _Values:
    """`log((p_in + p_out) / 2)`, [n]; minus infinity for p_in of a record that is nowhere in."""
    sides = [_log_mean(seen.shadows, seen.inside), _log_mean(seen.shadows, ~seen.inside)]
    return np.logaddexp(*sides) - math.log(2)


def _interpolated(seen: Observed, a: float) -> _Values:
    """`log(((1 + a) p_out + (1 - a)) / 2)`, [n]."""
    out = _log_mean(seen.shadows, ~seen.inside) + math.log1p(a)
    constant = math.log1p(-a) if a < 1 else -math.inf
    return np.logaddexp(out, constant) - math.log(2)


def _log_mean(log_p: _Values, mask: NDArray[np.bool_]) -> _Values:
    """Log of the mean probability over the models of a mask, [n]; minus infinity over none."""
    masked = np.where(mask, log_p, -np.inf)
    return np.asarray(logsumexp(masked, axis=0) - np.log(np.maximum(mask.sum(0), 1)))


def _beaten(ratio_x: _Values, ratio_z: _Values, gamma: float) -> _Values:
    """The share of the population whose log ratio lies log gamma or more below, [n]."""
    beaten = np.searchsorted(np.sort(ratio_z), ratio_x - math.log(gamma), side="right")
    return beaten / len(ratio_z)


def _observed(target: Scores, shadows: Scores, inside: Any) -> Observed:
    found = observed(target, shadows, inside)
    top = max(float(found.target.max()), float(found.shadows.max()))
    if found.target.ndim != 1 or top > 0:
        raise ValueError(
            f"The target's signals have shape {found.target.shape} and the largest of all is "
            f"{top:g}; expected [n] log probabilities, at most 0: log_confidence(phi) of stable "
            "logits."
        )
    need_models("without", ~found.inside, 1)
    return found


def _pair(x: Observed, z: Observed) -> tuple[Observed, Observed]:
    if len(x.inside) != len(z.inside):
        raise ValueError(
            f"The population was seen by {len(z.inside)} shadow models and the records by "
            f"{len(x.inside)}; expected the same models for both."
        )
    return x, z


def _check(gamma: float, a: float) -> None:
    if not 1 <= gamma < math.inf:
        raise ValueError(f"gamma is {gamma}; expected a finite ratio of at least 1.")
    if not 0 <= a <= 1:
        raise ValueError(f"a is {a}; expected a slope in [0, 1], as .3.")
