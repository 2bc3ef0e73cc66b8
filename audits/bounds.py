"""Lower bounds on epsilon from the counts of an attack that was fixed before training.

All are valid with probability 1 - alpha for an attack, threshold and number of guesses declared
beforehand: the best of several thresholds or attacks, chosen on the same scores, is not covered
(`dkw` and `gaussian_dkw` cover all thresholds of one attack). The names that say `gaussian` hold
for mechanisms whose trade-off curve is Gaussian; for subsampled training take `subsampled`, or
`rejects_claim` to test a claim directly.
"""

from __future__ import annotations

import dataclasses
import math

from audits.claimed_curve import (
    rejects_claim,
    rejects_claim_one_run,
    subsampled,
    subsampled_one_run,
)
from audits.gaussian_dp import epsilon_of, mu_of
from audits.intervals import Bound, check_count
from audits.many_runs import (
    clopper_pearson,
    dkw,
    gaussian,
    gaussian_dkw,
    hits_many_runs,
    known_null,
)
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
    "known_null",
    "per_record",
    "rejects_claim",
    "rejects_claim_one_run",
    "steinke",
    "subsampled",
    "subsampled_one_run",
]


def per_record(bound: Bound, copies: int) -> Bound:
    """The bound for one record, from a bound for canaries that were inserted `copies` times.

    A bound on mu is divided by k. A bound E at D without mu becomes epsilon = E / k at the smaller
    delta D / sum_{j<k} e^(j epsilon), by group privacy: look at the delta of what is returned.

    Raises:
        ValueError: `copies` is not an integer of at least 1, or it is above 1 and the bound is one
            on a noise multiplier: copies that are sampled one by one are no record of that claim;
            or the bound is infinite.
    """
    k = check_count("copies", copies, 1)
    if bound.sigma is not None and k > 1:
        raise ValueError(
            f"copies is {k} and the bound is {bound.method!r}, whose claim is about one record "
            "that is sampled as a whole; expected canaries inserted once, or a bound by `steinke` "
            "or `clopper_pearson`."
        )
    told = (*bound.assumptions, f"group privacy for {k} copies of every canary")
    if bound.mu is not None:
        mu, ceiling = bound.mu / k, bound.ceiling
        if bound.delta > 0:  # at delta = 0 every Gaussian bound is 0 or infinite, and stays so
            ceiling = epsilon_of(mu_of(ceiling, bound.delta) / k, bound.delta)
        epsilon = epsilon_of(mu, bound.delta)
        return dataclasses.replace(bound, mu=mu, epsilon=epsilon, ceiling=ceiling, assumptions=told)
    if math.isinf(bound.epsilon):
        raise ValueError(
            "an infinite bound has no delta for one record; use bounds that are finite"
        )
    epsilon = bound.epsilon / k
    growth = math.expm1(bound.epsilon) / math.expm1(epsilon) if epsilon > 0 else float(k)
    return dataclasses.replace(
        bound,
        epsilon=epsilon,
        delta=bound.delta / growth,
        ceiling=bound.ceiling / k,
        assumptions=told,
    )
