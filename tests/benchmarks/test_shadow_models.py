"""The membership benchmark runs, and its rates are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from audits.shadow import Held
from benchmarks.shadow_models import ATTACKS, main, of_one, pooled


def test_the_page(tmp_path, capsys):
    path = tmp_path / "new" / "page.md"
    words = ["--models", "6", "--epochs", "1", "--threads", "1", "--output", str(path)]
    assert main(words) == 0
    page = path.read_text()
    assert capsys.readouterr().out == page + "\n"
    assert "python -m benchmarks.shadow_models --models 6 --epochs 1" in page
    assert "6 shadow models of the task digits, each trained on 650 of 1,300 records" in page
    assert "LiRA with the default variance (pooled)" in page
    assert "[1] 650 non-members cannot show a false-positive rate of 0.001" in page
    assert all(page.count(f"| {name} ") == 2 for name in ATTACKS)


def held(n: int, shift: float) -> Held:
    """A target that is shifted where it knows a record."""
    rng = np.random.default_rng(0)
    coins = np.arange(n) % 2 == 0
    inside = np.arange(8)[:, None] % 2 == np.arange(n) % 2
    phi = rng.normal(size=(9, n)) + shift * np.concatenate([coins[None], inside])
    z = rng.normal(size=(9, 200))
    return Held(phi[0], coins, phi[1:], inside, z[0], z[1:])


def test_one_target():
    table = of_one(held(2000, 2.0))
    assert "refused" not in table
    assert "1 of 1,000, at most 0.47%" in table
    assert "Best of 6 attacks" in table


def test_every_attack_tells_members():
    given = held(400, 3.0)
    for attack in ATTACKS.values():
        scores = attack(given)
        assert scores[given.coins].mean() > scores[~given.coins].mean()


def test_the_reference_is_the_models_without_the_record():
    given = held(20, 1.0)
    scores = ATTACKS["reference"](given)
    for i in range(20):
        without = [
            np.log1p(np.exp(-p[i])) for p, m in zip(given[2], given[3], strict=True) if not m[i]
        ]
        assert scores[i] == pytest.approx(np.mean(without) - np.log1p(np.exp(-given.target[i])))


@pytest.mark.parametrize(("rate", "passed"), [(0.01, 2), (0.29, 58), (0.001, 0)])
def test_pooled_rates_against_a_loop(rate, passed):
    rng = np.random.default_rng(0)
    coins = rng.permuted(np.arange(100) < 50, axis=0)[None].repeat(4, 0)
    scores = rng.normal(size=(4, 100)) + coins
    threshold = sorted(scores[~coins], reverse=True)[passed]
    tpr = np.mean([score > threshold for score in scores[coins]])
    assert pooled(scores, coins, rate) == pytest.approx((tpr, passed / 200))
