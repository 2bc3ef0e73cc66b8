"""Exposures joined to canaries, and what is made of them: AUC and a bound on epsilon."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from audits.bounds import default_guesses, steinke
from audits.exposure import null_mean
from audits.planted import Planted
from audits.scoring import Scored, auc, lower_bound, score
from audits.tasks import Family, Space, Task, digits


def number(_model: nn.Module, batch: list[Tensor]) -> Tensor:
    """A record's loss is what is written in it."""
    return batch[0][:, 0]


def records(*values: float) -> list[tuple[Tensor]]:
    return [(torch.tensor([value]),) for value in values]


def task(families: dict[str, Family]) -> Task:
    return dataclasses.replace(digits.task({}), families=families, train=TensorDataset())


def planted(losses: dict[str, list[float]], references: dict[str, Any]) -> Planted:
    families = [name for name, values in losses.items() for _ in values]
    values = [value for listed in losses.values() for value in listed]
    n = len(values)
    return Planted(
        train=TensorDataset(),
        ids=[f"{family}/{i}" for i, family in enumerate(families)],
        families=np.array(families),
        repetitions=np.ones(n, dtype=np.int64),
        inserted=np.arange(n) % 2 == 0,
        records=records(*values),
        references=references,
        budget=0.0,
        manifest="",
    )


def shuffled(panel: Planted, order: NDArray[np.int64]) -> Planted:
    return dataclasses.replace(
        panel,
        ids=[panel.ids[i] for i in order],
        families=panel.families[order],
        repetitions=panel.repetitions[order],
        inserted=panel.inserted[order],
        records=[panel.records[i] for i in order],
    )


def draw(_n: int, _rng: np.random.Generator) -> list[Any]:
    raise AssertionError("canaries are drawn when they are planted")


SAMPLED = Family(draw, number)


def test_each_family_is_ranked_among_its_own_twins() -> None:
    panel = planted(
        {"low": [0.5, 3.5], "high": [100.5, 99.0]},
        {"low": records(1, 2, 3), "high": records(*range(100, 107))},
    )
    found = score(task({"low": SAMPLED, "high": SAMPLED}), nn.Identity(), panel)
    assert found.bits.tolist() == [2.0, 0.0, 2.0, 3.0]
    assert found.ceiling == 3.0
    assert found.references == 3
    assert found.null == pytest.approx((null_mean(3) + null_mean(7)) / 2)
    assert (found.low <= found.bits).all()
    assert (found.bits <= found.high).all()


def test_a_result_belongs_to_its_id_in_whatever_order() -> None:
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=8).tolist(), "b": rng.normal(size=7).tolist()}
    twins = {name: records(*rng.normal(size=50).tolist()) for name in values}
    panel, made = planted(values, twins), task({"a": SAMPLED, "b": SAMPLED})
    other = shuffled(panel, rng.permutation(15))
    first, second = (score(made, nn.Identity(), p) for p in (panel, other))
    for field in ("bits", "low", "high"):
        joined = dict(zip(panel.ids, getattr(first, field).tolist(), strict=True))
        assert joined == dict(zip(other.ids, getattr(second, field).tolist(), strict=True))
    assert auc(first, panel) == auc(second, other)
    assert lower_bound(first, panel, 1e-5, 0.05) == lower_bound(second, other, 1e-5, 0.05)


def test_a_space_is_enumerated_in_eval_mode() -> None:
    seen = []

    def losses(model: nn.Module) -> Tensor:
        seen.append(model.training)
        return torch.arange(16.0).flip(0)

    space = Space(losses, lambda record: int(record[0]))
    panel = planted({"secret": [15, 14, 0, 11]}, {"secret": []})
    model = nn.Identity().train()
    found = score(task({"secret": dataclasses.replace(SAMPLED, space=space)}), model, panel)
    assert found.bits.tolist() == [4.0, 3.0, 0.0, math.log2(16 / 5)]
    assert (found.ceiling, found.references) == (4.0, 16)
    assert found.null == pytest.approx(np.mean([math.log2(16 / rank) for rank in range(1, 17)]))
    assert (seen, model.training) == ([False], True)


def test_a_family_without_canaries_is_passed_over() -> None:
    panel = planted({"a": [0.5]}, {"a": records(1.0)})
    found = score(task({"a": SAMPLED, "b": SAMPLED}), nn.Identity(), panel)
    assert found.bits.tolist() == [1.0]


def scored(bits: Any) -> Scored:
    values = np.asarray(bits, dtype=np.float64)
    return Scored(values, values, values, 10.0, 1.44, 1000)


def coins(inserted: Any, repetitions: Any = 1) -> Planted:
    panel = planted({"a": [0.0] * len(inserted)}, {})
    times = np.broadcast_to(np.asarray(repetitions, dtype=np.int64), len(inserted))
    return dataclasses.replace(panel, inserted=np.array(inserted, dtype=bool), repetitions=times)


def test_auc_counts_pairs_of_once_inserted_and_held_out() -> None:
    assert auc(scored([3, 1, 2, 0]), coins([1, 0, 1, 0])) == 1.0
    assert auc(scored([0, 1, 2, 3]), coins([1, 0, 1, 0])) == 0.25
    assert auc(scored([1, 1]), coins([1, 0])) == 0.5
    # What was inserted more often is not part of it; held-out twins of all tiers are.
    assert auc(scored([9, 0, 5, 1, 2]), coins([1, 1, 1, 0, 0], [16, 1, 1, 1, 8])) == 0.5


@pytest.mark.parametrize(
    ("inserted", "repetitions"), [([0, 0], 1), ([1, 1], 1), ([1, 0], 2), ([1, 1, 0], [2, 4, 1])]
)
def test_auc_of_one_side_is_nan(inserted: list[int], repetitions: Any) -> None:
    assert math.isnan(auc(scored(range(len(inserted))), coins(inserted, repetitions)))


@pytest.mark.parametrize("n", [2, 3, 10, 99, 1000])
def test_a_perfect_attack_reaches_the_ceiling_of_its_guesses(n: int) -> None:
    inserted = np.arange(n) % 2 == 1
    guesses = 2 * max(1, default_guesses(n) // 2)
    best = steinke(canaries=n, guesses=guesses, correct=guesses, delta=1e-5, alpha=0.05)
    found = lower_bound(scored(inserted + np.arange(n) / n / 2), coins(inserted), 1e-5, 0.05)
    assert found == pytest.approx(best.epsilon)
    assert lower_bound(scored(~inserted), coins(inserted), 1e-5, 0.05) == 0.0


def test_one_wrong_guess_counts() -> None:
    inserted = np.arange(100) >= 50
    bits = np.arange(100.0)
    half = default_guesses(100) // 2
    right = 2 * half
    found = [lower_bound(scored(bits), coins(inserted), 1e-5, 0.05)]
    for wrong in (0, 99):  # the lowest and the highest are certainly guessed
        flipped = inserted.copy()
        flipped[wrong] = ~flipped[wrong]
        right -= 1
        inserted = flipped
        bound = steinke(canaries=100, guesses=2 * half, correct=right, delta=1e-5, alpha=0.05)
        found.append(lower_bound(scored(bits), coins(inserted), 1e-5, 0.05))
        assert found[-1] == pytest.approx(bound.epsilon)
    assert found[0] > found[1] > found[2]


def test_only_canaries_that_appear_at_most_once_are_guessed() -> None:
    inserted = np.arange(20) % 2 == 1
    perfect = scored(inserted.astype(float))
    assert lower_bound(perfect, coins(inserted, 2), 1e-5, 0.05) == 0.0
    half = np.where(np.arange(20) < 10, 1, 16)
    fewer = lower_bound(perfect, coins(inserted, half), 1e-5, 0.05)
    assert fewer == pytest.approx(
        lower_bound(scored(inserted[:10].astype(float)), coins(inserted[:10]), 1e-5, 0.05)
    )
    assert lower_bound(scored([1.0]), coins([1]), 1e-5, 0.05) == 0.0


def test_coins_that_nothing_leans_on_rarely_give_a_bound() -> None:
    """The level holds whatever the scores, ties included."""
    rng = np.random.default_rng(0)
    fired = 0
    for trial in range(200):
        bits = rng.normal(size=100) if trial % 2 else np.zeros(100)
        fired += lower_bound(scored(bits), coins(rng.integers(0, 2, 100)), 1e-5, 0.05) > 0
    assert fired <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05)
