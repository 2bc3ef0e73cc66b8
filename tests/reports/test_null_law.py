from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from reports.intervals import null_mean
from reports.null_law import null_shares


def rank_by_rank(edges: list[int], references: int) -> list[float]:
    """Counts every rank into its bin: its exposure is b or more where 2^b <= (N+1) / rank."""
    ranks = references + 1
    counts = [0] * (len(edges) - 1)
    for rank in range(1, ranks + 1):
        odds = Fraction(ranks, rank)
        for k, (low, high) in enumerate(pairwise(edges)):
            last = k == len(counts) - 1
            if 2**low <= odds and (odds < 2**high or (last and odds == 2**high)):
                counts[k] += 1
    return [count / ranks for count in counts]


@pytest.mark.parametrize("references", [1, 7, 9, 99, 1000, 1023])
def test_the_shares_are_those_of_equally_likely_ranks(references: int) -> None:
    edges = list(range(11))
    assert null_shares(edges, references) == pytest.approx(rank_by_rank(edges, references))


@pytest.mark.parametrize("references", [1, 2, 9, 250, 999, 1000, 4095])
def test_bins_up_to_the_ceiling_hold_everything(references: int) -> None:
    ceiling = float(np.log2(references + 1))
    edges = np.linspace(0.0, ceiling, 8)
    shares = null_shares(edges, references)
    assert shares.sum() == pytest.approx(1.0)
    exposures = np.log2((references + 1) / np.arange(1, references + 2))
    counts, _ = np.histogram(exposures.clip(0.0, ceiling), edges)
    # An exposure that lies on an edge may be rounded to either side of it.
    assert np.abs(np.cumsum(shares - counts / (references + 1))).max() < 1.01 / (references + 1)
    assert shares[-1] >= 1 / (references + 1)


def test_the_limit_is_the_exponential_law() -> None:
    edges = [0.0, 0.3, 1.0, 2.5, 9.0]
    slow = [quad(lambda b: np.log(2) * 2.0**-b, a, b)[0] for a, b in pairwise(edges)]
    assert null_shares(edges) == pytest.approx(slow)
    assert null_shares(edges, 10**7) == pytest.approx(slow, abs=1e-6)


def test_its_mean_is_the_exact_mean() -> None:
    edges = np.linspace(0.0, np.log2(100), 200_001)
    middles = (edges[:-1] + edges[1:]) / 2
    assert float(null_shares(edges, 99) @ middles) == pytest.approx(null_mean(99), abs=1e-4)


def test_edges_that_do_not_grow_and_no_references_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more that grow"):
        null_shares([0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="two or more that grow"):
        null_shares([0.0])
    with pytest.raises(ValueError, match="references is 0, expected at least 1"):
        null_shares([0.0, 1.0], 0)
