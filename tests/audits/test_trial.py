"""The pipeline as a measuring device: the null where nothing can be known, and more where it is."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from audits import scoring, trial
from audits.planted import Planted
from audits.tasks import Task
from audits.tasks.digits import load
from dpclip.arms import arms_of
from dpclip.cli.cells import privatizer
from dpclip.cli.tasks import plant, task_of
from dpclip.measure import gradient_norms

SEEDS = range(3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Task:
    config = {"task": "digits", "families": None, "batch_size": None}
    return task_of(config | {"epochs": 10, "references": 500})


def setting(**changes: Any) -> trial.Setting:
    return trial.Setting(**{"seed": 0, "lr": 0.2, "epochs": 10, "delta": 1e-5} | changes)


def privatize(grouping: str = "none", weighting: str = "clip:1", noise: str = "0") -> Any:
    return privatizer(arms_of(grouping, weighting, noise)[0][0], "prv")


@pytest.fixture(scope="module")
def outcomes(digits: Task) -> list[trial.Outcome]:
    """Unclipped training on ten canaries per tier and family, with several seeds."""
    torch.set_num_threads(1)
    return [
        trial.audit(digits, plant(digits, 10, s), setting(seed=s), privatize(), gradient_norms)
        for s in SEEDS
    ]


def column(outcomes: list[trial.Outcome], name: str, **where: Any) -> NDArray[np.float64]:
    rows = [row for outcome in outcomes for row in outcome.canaries]
    return np.array(
        [r[name] for r in rows if all(r[k] == v for k, v in where.items())], dtype=float
    )


def spread(canaries: int, references: int = 500) -> float:
    """Standard deviation of the null's mean; canaries of a run share their references."""
    return 1.4427 * math.sqrt(1 / canaries + 1 / (2 * len(SEEDS) * references))


def test_before_training_every_canary_is_at_the_null(outcomes: list[trial.Outcome]) -> None:
    before = column(outcomes, "before")
    assert len(before) == 300
    assert before.mean() == pytest.approx(outcomes[0].row["exp_null"], abs=3 * spread(300))
    assert outcomes[0].row["exp_null"] == pytest.approx(1.4427, abs=0.02)


def test_held_out_canaries_stay_at_the_null(outcomes: list[trial.Outcome]) -> None:
    out = column(outcomes, "exposure", inserted=False)
    assert len(out) > 100
    assert out.mean() == pytest.approx(1.4427, abs=3 * spread(len(out)))


def test_canaries_inserted_sixteen_times_are_remembered(outcomes: list[trial.Outcome]) -> None:
    often = column(outcomes, "exposure", inserted=True, repetitions=16)
    assert often.mean() > 1.4427 + 5 * spread(len(often))
    assert often.mean() > column(outcomes, "exposure", inserted=True, repetitions=1).mean() + 1


def test_the_row_is_what_the_canaries_say(outcomes: list[trial.Outcome]) -> None:
    for outcome in outcomes:
        for tier in trial.TIERS:
            values = column([outcome], "exposure", inserted=True, repetitions=tier)
            assert outcome.row[f"exp_{tier}"] == pytest.approx(values.mean())
        row = outcome.row
        assert row["exposure"] == row["exp_1"]
        assert row["exp_low"] <= row["exposure"] <= row["exp_high"]  # type: ignore[operator]
        assert row["n_in"] + row["n_out"] == 100  # type: ignore[operator]
        assert row["exp_ceiling"] == pytest.approx(math.log2(501))
        assert 0.85 < row["acc"] < 1  # type: ignore[operator]
        assert row["verdict"] == "not-claimed"


def test_series_have_growing_steps(outcomes: list[trial.Outcome]) -> None:
    for outcome in outcomes:
        for points in outcome.series.values():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps))
            assert steps[0] >= 1
        losses = [value for _, value in outcome.series["train/loss"]]
        assert len(losses) == 10
        assert losses[-1] < losses[0]
        assert outcome.series["train/loss"][-1][0] == outcome.row["steps"]


def test_canaries_reach_the_training_data_only(digits: Task) -> None:
    planted = plant(digits, 10, seed=0)
    untouched = load()
    for part in ("train", "validation", "test"):
        for mine, theirs in zip(
            getattr(digits, part).tensors, getattr(untouched, part).tensors, strict=True
        ):
            assert torch.equal(mine, theirs)
    held = {
        image.numpy().tobytes() for part in (digits.validation, digits.test) for image, _ in part
    }  # type: ignore[attr-defined]
    assert not held & {image.numpy().tobytes() for image, _ in planted.train}


def pointed(data: list[float], held_out: list[float]) -> tuple[Task, Planted]:
    """A linear task, in which a record's gradient norm is the number in it."""

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])[:, 0]

    def records(values: list[float]) -> TensorDataset:
        return TensorDataset(torch.tensor(values)[:, None])

    base = task_of(
        {"task": "digits", "families": None, "batch_size": None, "epochs": 1, "references": 1}
    )
    task = dataclasses.replace(base, train=records(data), losses=losses)
    n = len(held_out)
    planted = Planted(
        train=records(data),
        ids=[f"a/{i}" for i in range(n + 1)],
        families=np.array(["a"] * (n + 1)),
        repetitions=np.ones(n + 1, dtype=np.int64),
        inserted=np.arange(n + 1) == 0,
        records=[records([1e9])[0], *(record for record in records(held_out))],
        references={"a": []},
        budget=0.0,
        manifest="",
    )
    return task, planted


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ([100.0, 200.0], 100.0),
        ([0.1, 0.2], 0.0),
        ([2.5], 50.0),
        ([0.1, 2.5, 100.0], 50.0),
        ([2.0], 37.5),  # in the middle of its own tie
        ([], math.nan),
    ],
)
def test_norm_percentile_of_held_out_canaries(held_out: list[float], expected: float) -> None:
    task, planted = pointed([1.0, 2.0, 3.0, 4.0], held_out)
    model = nn.Linear(1, 1, bias=False)
    found = trial.norm_percentile(task, model, planted, gradient_norms)
    assert found == pytest.approx(expected, nan_ok=True)


def test_norm_percentile_looks_at_all_families() -> None:
    """With more canaries than are looked at, the first are all of one family."""
    task, planted = pointed([1.0, 2.0], [0.1] * 300 + [100.0] * 900)
    found = trial.norm_percentile(task, nn.Linear(1, 1, bias=False), planted, gradient_norms)
    assert found == 100.0


@pytest.mark.parametrize(
    ("eps", "bound", "verdict"),
    [
        (math.inf, 5.0, "not-claimed"),
        (1.0, 0.5, "consistent"),
        (1.0, 1.0, "consistent"),
        (1.0, 1.5, "contradicted"),
    ],
)
def test_the_verdict(
    digits: Task, monkeypatch: pytest.MonkeyPatch, eps: float, bound: float, verdict: str
) -> None:
    def claims(model: Any, optimizer: Any, loader: DataLoader[Any], seed: int) -> trial.Private:
        private = privatize()(model, optimizer, loader, seed)
        return private._replace(epsilon=lambda _delta: eps)

    monkeypatch.setattr(scoring, "lower_bound", lambda *_: bound)
    small = dataclasses.replace(
        digits, families={"noise": dataclasses.replace(digits.families["noise"], references=20)}
    )
    outcome = trial.audit(small, plant(small, 1, 0), setting(epochs=1), claims, gradient_norms)
    assert (outcome.row["eps"], outcome.row["verdict"]) == (eps, verdict)


def test_divergence_is_told_with_the_rate(digits: Task) -> None:
    wild = setting(lr=1e30, epochs=3)
    with pytest.raises(trial.Diverged, match=r"after epoch 1 at learning rate 1e\+30"):
        trial.train(digits, digits.train, wild, privatize())
    assert trial.validate(digits, digits.train, wild, privatize()).row["validation"] is None


def test_a_validation_that_is_not_finite_is_the_worst(digits: Task) -> None:
    broken = dataclasses.replace(digits, evaluate=lambda _model, _records: math.nan)
    found = trial.validate(broken, digits.train, setting(epochs=1), privatize())
    assert found.row["validation"] is None


def test_hooks_are_gone_after_training(digits: Task) -> None:
    outcome = trial.train(digits, digits.train, setting(epochs=1), privatize("sample"))
    assert outcome.model is not None
    outcome.model.train()
    digits.losses(outcome.model, digits.train[:4]).mean().backward()
    assert all(p.grad is not None for p in outcome.model.parameters())


@pytest.mark.parametrize("grouping", ["none", "sample", "microbatch:4", "core:4"])
def test_tiny_batches_that_may_be_empty(digits: Task, grouping: str) -> None:
    few = TensorDataset(*digits.train[:40])
    small = dataclasses.replace(digits, batch_size=4)
    outcome = trial.train(small, few, setting(epochs=8), privatize(grouping))
    assert outcome.row["steps"] == 80
    assert math.isfinite(outcome.row["loss"])  # type: ignore[arg-type]
