"""The likelihood ratio attack with shadow models (LiRA, Carlini et al. 2022).

Signals are stable logits: of the target model [..., n], of M shadow models [M, ..., n]; `inside`
[M, n] says which records each shadow model was trained on. Leading axes are queries of one record
(augmentations), over which the scores are averaged.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from audits.intervals import Scores
from audits.membership.sides import need_models, observed

FEW: Final = 16  # below as many shadow models a record's own variance is too noisy to help
_Values = NDArray[np.float64]


def lira_online(
    target: Scores, shadows: Scores, inside: Any, fixed: bool | None = None
) -> NDArray[np.float64]:
    """Scores [n]: log of the ratio of the densities with and without the record.

    `log N(phi; mu_in, s_in^2) - log N(phi; mu_out, s_out^2)`, mean over the queries (algorithm 1).

    Args:
        target: [..., n] stable logits of the audited model.
        shadows: [M, ..., n] of the shadow models.
        inside: [M, n] booleans.
        fixed: One variance for all records, pooled within records; by default with fewer than 16
            shadow models. False takes each record's own.

    Raises:
        ValueError: Not finite, shapes that do not fit, fewer than 2 shadow models with or without
            some record, or shadow models that do not differ on a record.
    """
    seen = observed(target, shadows, inside)
    with_it = _law("with", seen.shadows, seen.mask, seen.inside, fixed)
    without = _law("without", seen.shadows, ~seen.mask, ~seen.inside, fixed)
    return _over_queries(log_ratio(seen.target, *with_it, *without))


def lira_offline(
    target: Scores,
    shadows: Scores,
    inside: Any,
    fixed: bool | None = None,
    two_sided: bool = False,
) -> NDArray[np.float64]:
    """Scores [n]: how unlikely the signal is for a model without the record.

    `-log(1 - Phi((phi - mu_out) / s_out))`: the paper's one-sided test in logs (its own score is
    `lower_tail` = 1 - e^-score). Phi is 1 for all that lie beyond 8.3 standard deviations, and such
    ties would decide the rates at few false positives. Mean over the queries.

    Args:
        target: As in `lira_online`.
        shadows: As in `lira_online`; models with the record are left out.
        inside: As in `lira_online`.
        fixed: As in `lira_online`.
        two_sided: `-log N(phi; mu_out, s_out)` instead, for which a signal that is far too low is
            as member-like as one that is far too high.

    Raises:
        ValueError: As `lira_online`, of the models without the record.
    """
    seen = observed(target, shadows, inside)
    mean, std = _law("without", seen.shadows, ~seen.mask, ~seen.inside, fixed)
    if two_sided:
        return _over_queries(-log_density(seen.target, mean, std))
    return _over_queries(-np.asarray(log_ndtr((mean - seen.target) / std)))


def log_ratio(
    phi: float | _Values,
    mean_in: float | _Values,
    std_in: float | _Values,
    mean_out: float | _Values,
    std_out: float | _Values,
) -> _Values:
    """`log N(phi; mean_in, std_in^2) - log N(phi; mean_out, std_out^2)`, elementwise."""
    return log_density(phi, mean_in, std_in) - log_density(phi, mean_out, std_out)


def lower_tail(phi: float | _Values, mean: float | _Values, std: float | _Values) -> _Values:
    """`Phi((phi - mean) / std)`, elementwise: the paper's offline score."""
    return np.asarray(ndtr((phi - np.asarray(mean)) / std))


def log_density(phi: float | _Values, mean: float | _Values, std: float | _Values) -> _Values:
    """`log N(phi; mean, std^2)`, elementwise."""
    z = (phi - np.asarray(mean)) / std
    return np.asarray(-0.5 * z * z - np.log(std) - 0.5 * math.log(2 * math.pi))


def pooled_std(values: _Values, mask: NDArray[np.bool_]) -> _Values:
    """One standard deviation for all records, [..., 1], pooled within records.

    The square root of the sum of squared deviations from each record's own mean, divided by the
    models less one mean a record. Deviations from one common mean would measure how records differ.

    Args:
        values: [M, ..., n].
        mask: The same shape; which values count. Every record needs two.
    """
    count = mask.sum(0)
    mean = values.sum(0, where=mask) / count
    squares = ((values - mean) ** 2).sum((0, -1), where=mask, keepdims=True)[0]
    return np.asarray(np.sqrt(squares / (count - 1).sum(-1, keepdims=True)))


def _law(
    side: str,
    values: _Values,
    mask: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    fixed: bool | None,
) -> tuple[_Values, _Values]:
    """Mean [..., n] and standard deviation ([..., 1] where fixed) of models on one side."""
    need_models(side, inside, 2)
    count = mask.sum(0)
    mean = values.sum(0, where=mask) / count
    if fixed or (fixed is None and len(values) < FEW):
        std = pooled_std(values, mask)
    else:
        std = np.sqrt(((values - mean) ** 2).sum(0, where=mask) / (count - 1))
    if (std == 0).any():
        raise ValueError(
            f"{int((std == 0).sum())} of {std.size} standard deviations over the models {side} a "
            "record are 0: the models are copies, or their signals saturate. Use models of "
            "different seeds and stable logits, or fixed=True."
        )
    return mean, std


def _over_queries(scores: _Values) -> _Values:
    return np.asarray(scores.mean(tuple(range(scores.ndim - 1))))
