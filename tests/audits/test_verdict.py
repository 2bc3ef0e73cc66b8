"""What a bound says about a claim."""

import math

import pytest

from audits.verdict import verdict


@pytest.mark.parametrize(
    ("eps", "bound", "ceiling", "expected"),
    [
        (math.inf, 5.0, 6.0, "not-claimed"),
        (1.0, 0.5, 6.0, "consistent"),
        (1.0, 1.0, 6.0, "consistent"),
        (1.0, 1.5, 6.0, "contradicted"),
        (1.0, 0.5, 1.0, "unresolvable"),
        (1.0, 0.0, 0.4, "unresolvable"),
    ],
)
def test_the_verdict(eps: float, bound: float, ceiling: float, expected: str) -> None:
    assert verdict({"eps": eps, "eps_lb": bound, "eps_lb_ceiling": ceiling}) == expected
