"""What was declared before training is what is judged, and nothing else is."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from audits.declaration import Declaration, Refused, by_id

IDS = ("a/0", "a/1", "b/0", "b/1")
PLAIN: dict[str, Any] = {
    "attack": "exposure",
    "sign": 1,
    "ids": IDS,
    "coins": (True, False, True, False),
    "repetitions": (1, 1, 1, 16),
    "alpha": 0.05,
    "delta": 1e-5,
    "guesses": 2,
}
SCORES = {"b/1": 4.0, "a/1": 2.0, "b/0": 3.0, "a/0": 1.0}


def declared(**changes: Any) -> Declaration:
    return Declaration(**PLAIN | changes)


def test_scores_are_joined_by_id_in_the_declared_order() -> None:
    assert declared().join(SCORES, attack="exposure", sign=1).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_loss_is_turned_round() -> None:
    joined = declared(attack="loss", sign=-1).join(SCORES, attack="loss", sign=-1)
    assert joined.tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_it_survives_json() -> None:
    first = declared(threshold=0.5, guesses=None, tests=3, panel="abc")
    assert Declaration.of(json.loads(json.dumps(first.manifest()))) == first


@pytest.mark.parametrize("field", sorted(Declaration.__dataclass_fields__))
def test_every_field_is_in_the_manifest(field: str) -> None:
    assert field in declared().manifest()


@pytest.mark.parametrize(
    ("scores", "attack", "sign", "told"),
    [
        (SCORES, "loss", 1, "'exposure' with sign \\+1 was declared before training"),
        (SCORES, "exposure", -1, "with sign -1; 'exposure' with sign \\+1 was declared"),
        ({"a/0": 1.0}, "exposure", 1, "3 of 4 canaries have no score, 'a/1' for one"),
        (SCORES | {"c": 0.0}, "exposure", 1, "1 scores belong to no canary .* 'c' for one"),
        (SCORES | {"b/0": math.nan}, "exposure", 1, "1 scores are NaN, that of 'b/0'"),
        ({}, "exposure", 1, "4 of 4 canaries have no score"),
    ],
)
def test_other_scores_are_refused(
    scores: dict[str, float], attack: str, sign: int, told: str
) -> None:
    with pytest.raises(Refused, match=told):
        declared().join(scores, attack=attack, sign=sign)


def test_infinite_scores_have_a_rank() -> None:
    scores = SCORES | {"a/0": math.inf, "a/1": -math.inf}
    assert declared().join(scores, attack="exposure", sign=1).tolist() == [
        math.inf,
        -math.inf,
        3.0,
        4.0,
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"guesses": 4}, "4 guesses are declared for 3 canaries of repetition 1"),
        ({"guesses": 1}, "an even number from 2 to 3"),
        ({"guesses": 3}, "an even number from 2 to 3"),
        ({"guesses": None}, "either a number of guesses or a threshold"),
        ({"threshold": 0.5}, "either a number of guesses or a threshold"),
        ({"guesses": None, "threshold": math.nan}, "expected a finite score"),
        ({"sign": 0}, "sign is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"tests": 0}, "tests is 0"),
        ({"coins": ("no", "yes", True, False)}, "found coin 'no'"),
        ({"coins": (1, 0, 1, 0)}, "found coin 1"),
        ({"repetitions": (1, 1, 1, 2.0)}, "found repetition 2.0"),
        ({"repetitions": (1, 1, 0, 2)}, "found repetition 0"),
        ({"sign": True}, "sign is True"),
        ({"guesses": 2.0}, "guesses is 2.0"),
        ({"guesses": None, "threshold": True}, "threshold is True"),
        ({"guesses": None, "threshold": 0.0, "coins": (True,) * 4}, "3 of 3 canaries"),
        ({"guesses": None, "threshold": 0.0, "repetitions": (2,) * 4}, "0 of 0 canaries"),
        ({"ids": ("a", "a", "b", "c")}, "4 ids, 3 of them different"),
        ({"coins": (True,)}, "1 coins and 4 repetitions for 4 ids"),
        ({"ids": (), "coins": (), "repetitions": ()}, "0 ids"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_training(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        declared(**changes)


@pytest.mark.parametrize("lost", ["alpha", "ids", "threshold"])
def test_a_manifest_with_a_part_missing_is_refused(lost: str) -> None:
    manifest = declared().manifest()
    del manifest[lost]
    with pytest.raises(ValueError, match=lost):
        Declaration.of(manifest)


def test_another_manifest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found format 'canaries.panel/1'"):
        Declaration.of(declared().manifest() | {"format": "canaries.panel/1"})
    with pytest.raises(ValueError, match="surprise"):
        Declaration.of(declared().manifest() | {"surprise": 1})


def test_a_bound_is_about_canaries_inserted_once() -> None:
    assert declared().once.tolist() == [True, True, True, False]
    assert declared().inserted.tolist() == [True, False, True, False]


def test_it_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        declared().guesses = 3  # type: ignore[misc]


def test_scores_need_one_id_each() -> None:
    assert by_id(["a", "b"], np.array([1.0, 2.0])) == {"a": 1.0, "b": 2.0}
    with pytest.raises(Refused, match="3 scores for 2 ids"):
        by_id(["a", "b"], [1.0, 2.0, 3.0])
    with pytest.raises(Refused, match="2 ids, 1 of them different"):
        by_id(["a", "a"], [1.0, 2.0])
