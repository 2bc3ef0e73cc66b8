"""Exposures joined to canaries, and the AUC that is made of them."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from audits.exposure import null_mean
from audits.planted import Planted
from audits.scoring import Scored, auc, score
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
    assert area(first, panel) == area(second, other)


def test_a_model_that_never_saw_them_is_told_from_one_whose_twins_are_no_twins() -> None:
    rng = np.random.default_rng(0)
    made = task({"a": SAMPLED, "b": SAMPLED})
    twins = {name: records(*rng.normal(size=300).tolist()) for name in "ab"}
    fair = planted({name: rng.normal(size=40).tolist() for name in "ab"}, twins)
    assert score(made, nn.Identity(), fair).null_p > 0.05
    shifted = planted(
        {"a": rng.normal(size=40).tolist(), "b": rng.normal(-1, 1, size=40).tolist()}, twins
    )
    assert score(made, nn.Identity(), shifted).null_p < 1e-4


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
    return Scored(values, values, values, 10.0, 1.44, 1000, 1.0)


def coins(inserted: Any, repetitions: Any = 1) -> Planted:
    panel = planted({"a": [0.0] * len(inserted)}, {})
    times = np.broadcast_to(np.asarray(repetitions, dtype=np.int64), len(inserted))
    return dataclasses.replace(panel, inserted=np.array(inserted, dtype=bool), repetitions=times)


def area(found: Scored, panel: Planted) -> float:
    seen = auc(found, panel)
    assert seen is not None
    return seen.estimate


def test_auc_counts_pairs_of_once_inserted_and_held_out() -> None:
    assert area(scored([3, 1, 2, 0]), coins([1, 0, 1, 0])) == 1.0
    assert area(scored([0, 1, 2, 3]), coins([1, 0, 1, 0])) == 0.25
    assert area(scored([1, 1, 1, 1]), coins([1, 0, 1, 0])) == 0.5
    # What was inserted more often is not part of it; held-out twins of all tiers are.
    assert area(scored([9, 0, 5, 1, 2]), coins([1, 1, 1, 0, 0], [16, 1, 1, 1, 8])) == 0.5


@pytest.mark.parametrize(
    ("inserted", "repetitions"),
    [([0, 0], 1), ([1, 1], 1), ([1, 0], 2), ([1, 1, 0], [2, 4, 1]), ([1, 0, 0], 1)],
)
def test_auc_of_one_side_is_none(inserted: list[int], repetitions: Any) -> None:
    assert auc(scored(range(len(inserted))), coins(inserted, repetitions)) is None
