"""Exposure: how far up a secret ranks among the strings it could have been (Carlini et al. 2019).

For a secret drawn uniformly from a space R of equally likely fillings,
`exposure = log2 |R| - log2 rank`, by increasing loss: 0 bits at the bottom, log2 |R| at the top,
and 2^-exposure is the p-value of "not memorized". Losses are summed over the same number of secret
tokens for all; low = member-like. Numbers, lists, numpy arrays and torch tensors are taken.
"""

from audits.exposure.extrapolation import extrapolated
from audits.exposure.groups import mean
from audits.exposure.lengths import stratified
from audits.exposure.null import (
    null_maximum,
    null_mean,
    null_mean_quantile,
    null_test,
    references_needed,
)
from audits.exposure.ranks import exact, sampled
from audits.exposure.value import Exposure

__all__ = [
    "Exposure",
    "exact",
    "extrapolated",
    "mean",
    "null_maximum",
    "null_mean",
    "null_mean_quantile",
    "null_test",
    "references_needed",
    "sampled",
    "stratified",
]
