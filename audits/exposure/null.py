"""Exposures of secrets that were never trained on: their law, limits, and a test against it."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, gammaln
from scipy.stats import expon, ks_2samp, kstest, kstwo

from audits.exposure.value import Exposure
from audits.intervals import Scores, check_alpha, check_count, check_scores

__all__ = [
    "null_maximum",
    "null_mean",
    "null_mean_quantile",
    "null_test",
    "references_needed",
]

# Canaries times references up to which the exact law of two samples takes well under a second.
EXACT = 10**8


def null_mean(references: int) -> float:
    """The mean sampled exposure when nothing was memorized: `log2(N+1) - log2((N+1)!) / (N+1)`.

    0 references stand for infinitely many: log2 e = 1.442695. For exact ranks N + 1 is |R|.
    """
    if check_count("references", references, 0) == 0:
        return 1 / math.log(2)
    ranks = references + 1
    return math.log2(ranks) - float(gammaln(ranks + 1)) / (ranks * math.log(2))


def null_mean_quantile(canaries: int, probability: float = 0.95) -> float:
    """The quantile of the mean of n exposures when nothing was memorized, for many references.

    Exposures are then Exp(ln 2), and their sum is a Gamma variable.
    """
    n = check_count("canaries", canaries, 1)
    check_alpha(1 - probability)
    return float(gammaincinv(n, probability)) / (n * math.log(2))


def null_maximum(canaries: int, alpha: float = 0.05) -> float:
    """The bits that the largest of n exposures exceeds with probability <= alpha under the null."""
    check_alpha(alpha)
    return math.log2(check_count("canaries", canaries, 1) / alpha)


def references_needed(bits: float, alpha: float = 0.05) -> int:
    """The fewest references with which a secret that beats them all shows at least `bits`.

    `N >= ln(alpha) / ln(1 - 2^-bits)`, the one-sided Clopper-Pearson limit at k = 0.

    Raises:
        ValueError: `bits` is not above 0, or alpha is outside (0, 1).
    """
    check_alpha(alpha)
    if not 0 < bits < 1000:
        raise ValueError(f"bits is {bits}; expected an exposure above 0 (and below 1000).")
    return math.ceil(math.log(alpha) / math.log1p(-(2.0**-bits)))


def null_test(exposures: Exposure | Scores, references: int | None = None) -> float:
    """P-value of "these secrets were never trained on", two-sided, from all their exposures.

    For exposures before training, which say whether canaries and references are exchangeable at
    all: with longer references, say, they are not, and every canary looks memorized. Kolmogorov and
    Smirnov's test: of canaries against their references, whom they share (two samples), or of exact
    ranks against uniform ones. Ties count for neither side; with them the p-value is conservative.

    Args:
        exposures: What `sampled` or `exact` returned; or bare bits, from ranks without ties.
        references: N that bare bits were ranked among, 0 for infinitely many: then they are
            compared with Exp(ln 2).

    Raises:
        ValueError: Bare bits without N, bits that no rank among N has, no bits, NaN, or exposures
            that are neither sampled among one set of references nor exact.
    """
    if isinstance(exposures, Exposure):
        return _of_ranks(exposures)
    bits = np.ravel(check_scores("exposures", exposures))
    if references is None:
        raise ValueError(
            "references is missing: bare bits need the number they were ranked among, 0 for many."
        )
    if (bits < 0).any():
        raise ValueError(f"Some exposures are below 0, as {bits.min():g}; no rank gives that.")
    if check_count("references", references, 0) == 0:
        return float(kstest(bits, expon(scale=1 / math.log(2)).cdf).pvalue)
    below = (references + 1) / 2.0**bits - 1
    whole = np.rint(below).astype(np.int64)
    if (np.abs(below - whole) > 1e-6 * (references + 1)).any() or (whole < 0).any():
        raise ValueError(
            f"Some exposures are of no rank among {references} references: pass the number they "
            "were ranked among, or what audits.exposure.sampled returned."
        )
    return _among_references(whole, np.zeros_like(whole), references)


def _of_ranks(exposures: Exposure) -> float:
    counts = exposures.counts
    if not {"below", "tied"} <= counts.keys() or np.ndim(counts.get("references", 0)):
        raise ValueError(
            f"Exposures by method {exposures.method!r} have no ranks among one set of strings; "
            "test what audits.exposure.sampled or .exact returned, one length at a time."
        )
    below, tied = (np.ravel(counts[name]).astype(np.int64) for name in ("below", "tied"))
    if "references" in counts:
        return _among_references(below, tied, int(counts["references"]))
    return _in_space(below, tied, int(counts["space"]))


def _among_references(below: NDArray[np.int64], tied: NDArray[np.int64], n: int) -> float:
    """Two samples laid out on a line in the order, and with the ties, that the counts tell of."""
    places = np.arange(n, dtype=np.float64)
    for first, many in {*zip(below.tolist(), tied.tolist(), strict=True)}:
        places[first : first + many] = first
    canaries = np.where(tied > 0, below, below - 0.5)
    if len(below) * n > EXACT:
        return float(ks_2samp(canaries, places, method="asymp").pvalue)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(ks_2samp(canaries, places, method="exact").pvalue)
        except RuntimeWarning:  # of these sizes, it is a probability of 1 + 1e-16 that scipy doubts
            return 1.0


def _in_space(below: NDArray[np.int64], tied: NDArray[np.int64], size: int) -> float:
    """One sample against the uniform law on a whole space; its steps make it conservative."""
    ordered, n = np.sort(below), len(below)
    left, right = (np.searchsorted(ordered, below, side=side) / n for side in ("left", "right"))
    apart = max(np.abs(left - below / size).max(), np.abs(right - (below + tied + 1) / size).max())
    return float(kstwo.sf(apart, n))
