import math

import pytest

from audits.membership import auc, join

IDS, COINS = ["a", "b", "c", "d"], [True, False, True, False]
SCORES = {"d": 1.0, "c": 4.0, "b": 2.0, "a": 3.0}


@pytest.mark.parametrize("scores", [SCORES, list(SCORES.items()), iter(SCORES.items())])
def test_scores_are_joined_by_id(scores) -> None:
    found = join(scores, IDS, COINS)
    assert found.ids == ("a", "b", "c", "d")
    assert found.scores.tolist() == [3, 2, 4, 1]
    assert found.inside.tolist() == COINS
    assert auc(found.scores, found.inside).estimate == 1


@pytest.mark.parametrize(
    ("scores", "ids", "inside", "said"),
    [
        ({**SCORES, "e": 1.0}, IDS, COINS, r"1 ids \('e'\) not among the 4 declared"),
        ({"a": 1.0}, IDS, COINS, r"3 ids \('b', 'c', 'd'\) without a score"),
        ([*SCORES.items(), ("a", 3.0)], IDS, COINS, r"1 ids \('a'\) more than once in scores"),
        (SCORES, [*IDS, "a"], [*COINS, True], r"1 ids \('a'\) more than once in ids"),
        ({**SCORES, "a": math.nan}, IDS, COINS, r"\('a'\) with a score that is not finite, as nan"),
        ({**SCORES, "a": -math.inf}, IDS, COINS, "not finite, as -inf"),
        (SCORES, IDS, COINS[1:], "expected a coin for 4 ids"),
        (SCORES, IDS, [1, 0, 1, 0], "expected booleans"),
        (SCORES, IDS, [True] * 4, "4 of 4 records are members"),
        (SCORES, IDS, [False] * 4, "0 of 4 records are members"),
    ],
)
def test_what_does_not_fit_is_refused(scores, ids, inside, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        join(scores, ids, inside)


def test_a_headline_needs_its_non_members() -> None:
    assert join(SCORES, IDS, COINS, fpr=0.5)
    with pytest.raises(ValueError, match=r"2 non-members .* rate of 0.4; expected at least 3"):
        join(SCORES, IDS, COINS, fpr=0.4)
