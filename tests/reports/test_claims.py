import math

import pytest

from reports.claims import claims, epsilon_text, guarantee_text

NOTHING = {"clip": "none", "eps": math.inf, "guarantee": "none: nothing is clipped"}
CLAIMED = {
    "clip": "sample",
    "weighting": "clip",
    "C": 1.0,
    "sigma": 1.0,
    "eps": 2.345,
    "delta": 1e-5,
    "guarantee": "example level, PRV",
    "eps_lb": 0.4,
    "verdict": "consistent",
}


@pytest.mark.parametrize(
    ("guarantee", "expected"),
    [
        ("none: the minimum is joint", "none: the minimum is joint"),
        ("No guarantee, the minimum is joint; see there", "none: the minimum is joint"),
        ("", "none: no reason recorded"),
        (None, "none: no reason recorded"),
    ],
)
def test_the_reason_is_said_once(guarantee: str | None, expected: str) -> None:
    assert epsilon_text({"eps": math.inf, "guarantee": guarantee}) == expected


def test_the_whole_guarantee_is_kept() -> None:
    assert guarantee_text(NOTHING) == "none: nothing is clipped"
    assert guarantee_text(NOTHING | {"guarantee": "a; b"}) == "none: a; b"
    assert guarantee_text(CLAIMED) == "example level, PRV"


def test_no_finite_epsilon_means_no_claim() -> None:
    assert claims([NOTHING]) == [
        "No arm has a finite epsilon: no differential privacy may be claimed for any."
    ]


def test_claims_name_epsilon_delta_and_what_the_audit_found() -> None:
    claim, rest = claims([NOTHING, CLAIMED])
    assert claim == (
        "sample C=1 sigma=1: epsilon 2.35 at delta 1e-05. Guarantee: example level, PRV. "
        "The audit's lower bound is 0.4."
    )
    assert rest == "The other arm has no epsilon: nothing may be claimed for it."


def test_a_contradicted_claim_is_loud() -> None:
    (claim,) = claims([CLAIMED | {"verdict": "contradicted", "eps_lb": 5.0}])
    assert "CONTRADICTED by the audit, which found an epsilon of at least 5: do not" in claim
