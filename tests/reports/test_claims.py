import math

import pytest

from reports.claims import (
    VERDICTS,
    bound_text,
    claims,
    epsilon_text,
    guarantee_text,
    out_of_reach,
    verdict_text,
)

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


def test_claims_of_several_tasks_name_theirs() -> None:
    held = [CLAIMED | {"task": "digits"}, CLAIMED | {"task": "text"}]
    assert [claim.split(" ")[0] for claim in claims(held)] == ["digits:", "text:"]
    assert claims(held[:1])[0].startswith("sample C=1")


def test_claims_name_epsilon_delta_and_what_the_audit_found() -> None:
    claim, rest = claims([NOTHING, CLAIMED])
    assert claim == (
        "sample C=1 sigma=1: epsilon 2.35 at delta 1e-05. Guarantee: example level, PRV. "
        "The audit's lower bound: 0.4; what a perfect attack could have shown is not recorded."
    )
    assert rest == "The other arm has no epsilon: nothing may be claimed for it."


def test_a_contradicted_claim_is_loud() -> None:
    (claim,) = claims([CLAIMED | {"verdict": "contradicted", "eps_lb": 5.0}])
    assert "CONTRADICTED by the audit, which found an epsilon of at least 5: do not" in claim


def test_a_claim_that_could_not_be_contradicted_is_not_tested() -> None:
    weak = CLAIMED | {"verdict": "unresolvable", "eps_lb_ceiling": 2.0, "eps_lb_by": "records"}
    (claim,) = claims([weak])
    assert "NOT TESTED: even a perfect attack of this design could not have shown more" in claim
    assert claim.endswith("Its bound: 0.4 from records; a perfect attack could have shown 2.")
    # An older verdict does not know of ceilings.
    assert "NOT TESTED" in claims([weak | {"verdict": "consistent"}])[0]
    assert "NOT TESTED" not in claims([weak | {"verdict": "consistent", "eps_lb_ceiling": 5.8}])[0]


def test_a_ceiling_at_the_claim_is_out_of_reach_and_an_unknown_one_is_unknown() -> None:
    at = {ceiling: out_of_reach(CLAIMED | {"eps_lb_ceiling": ceiling}) for ceiling in (2.3, 2.345)}
    assert at == {2.3: True, 2.345: True}
    assert not out_of_reach(CLAIMED | {"eps_lb_ceiling": 2.346})
    assert not out_of_reach(CLAIMED)
    assert not out_of_reach(NOTHING | {"eps_lb_ceiling": 2.0})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "not recorded"),
        ({"eps_lb": math.nan}, "not recorded"),
        ({"eps_lb": 0.0}, "0; what a perfect attack could have shown is not recorded"),
        (
            {"eps_lb": 1.234, "eps_lb_by": "gradient canaries", "eps_lb_ceiling": 5.6},
            "1.23 from gradient canaries; a perfect attack could have shown 5.6",
        ),
    ],
)
def test_a_bound_is_told_with_its_source_and_ceiling(
    columns: dict[str, float | str], expected: str
) -> None:
    assert bound_text(columns) == expected


def test_every_verdict_is_explained() -> None:
    assert set(VERDICTS) == {"consistent", "contradicted", "not-claimed", "unresolvable"}
    assert "no proof" in verdict_text({"verdict": "consistent"})
    assert verdict_text({}) == "the audit's verdict is not recorded"
    assert verdict_text({"verdict": "else"}) == "else"
