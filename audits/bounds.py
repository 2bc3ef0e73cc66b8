"""Lower bounds on epsilon from the counts of an attack that was fixed before training.

All are valid with probability 1 - alpha for an attack, threshold and number of guesses declared
beforehand: the best of several thresholds or attacks, chosen on the same scores, is not covered
(`dkw` and `gaussian_dkw` cover all thresholds of one attack).
"""

from __future__ import annotations

import dataclasses
import math

from audits.gaussian_dp import epsilon_of, mu_of
from audits.intervals import Bound, check_count
from audits.many_runs import clopper_pearson, dkw, gaussian, gaussian_dkw, hits_many_runs
from audits.one_run import (
    default_guesses,
    expected_correct,
    gaussian_one_run,
    hits_one_run,
    steinke,
)

__all__ = [
    "Bound",
    "clopper_pearson",
    "default_guesses",
    "dkw",
    "expected_correct",
    "gaussian",
    "gaussian_dkw",
    "gaussian_one_run",
    "hits_many_runs",
    "hits_one_run",
    "per_record",
    "steinke",
]


def per_record(bound: Bound, copies: int) -> Bound:
    """The bound for one record, from a bound for canaries that were inserted `copies` times.

    A bound on mu is divided by k. A bound E at D without mu becomes epsilon = E / k at the smaller
    delta D / sum_{j<k} e^(j epsilon), by group privacy: look at the delta of what is returned.

    Raises:
        ValueError: `copies` is not an integer of at least 1.
    """
    k = check_count("copies", copies, 1)
    told = (*bound.assumptions, f"group privacy for {k} copies of every canary")
    if bound.mu is not None:
        mu, ceiling = bound.mu / k, bound.ceiling
        if bound.delta > 0:  # at delta = 0 every Gaussian bound is 0 or infinite, and stays so
            ceiling = epsilon_of(mu_of(ceiling, bound.delta) / k, bound.delta)
        epsilon = epsilon_of(mu, bound.delta)
        return dataclasses.replace(bound, mu=mu, epsilon=epsilon, ceiling=ceiling, assumptions=told)
    epsilon = bound.epsilon / k
    growth = math.expm1(bound.epsilon) / math.expm1(epsilon) if epsilon > 0 else float(k)
    return dataclasses.replace(
        bound,
        epsilon=epsilon,
        delta=bound.delta / growth,
        ceiling=bound.ceiling / k,
        assumptions=told,
    )
