import numpy as np
import pytest
from scipy.stats import binom

from audits.membership import auc, best_attack

INSIDE = np.arange(200) < 100


def test_the_best_of_three_pays_for_the_choice() -> None:
    rng = np.random.default_rng(0)
    attacks = {
        name: rng.normal(size=200) + s * INSIDE for name, s in (("a", 0), ("b", 1), ("c", 0.5))
    }
    found = best_attack(attacks, INSIDE)
    assert found.attack == "b"
    assert found.auc == found.tried["b"] == auc(attacks["b"], INSIDE, n_tests=3)
    assert list(found.tried) == ["a", "b", "c"]
    assert found.auc.low < auc(attacks["b"], INSIDE).low


def test_ten_attacks_that_know_nothing_rarely_show_something() -> None:
    naive = counted = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        attacks = {str(i): rng.normal(size=200) for i in range(10)}
        found = best_attack(attacks, INSIDE)
        naive += auc(attacks[found.attack], INSIDE).low > 0.5
        counted += found.auc.low > 0.5
    assert counted <= binom.ppf(1 - 1e-3, 200, 0.05)
    assert naive > 0.15 * 200


def test_no_attacks() -> None:
    with pytest.raises(ValueError, match="every attack that was tried"):
        best_attack({}, INSIDE)
