"""One training run: what it reports, and how it ends."""

import dataclasses
import math
from typing import Any

import pytest
from torch.utils.data import TensorDataset

from audits import trial
from audits.tasks import Task
from dpclip.arms import arms_of
from dpclip.cli.cells import privatizer

SEEDS = range(3)


def setting(**changes: Any) -> trial.Setting:
    return trial.Setting(**{"seed": 0, "lr": 0.2, "epochs": 10, "delta": 1e-5} | changes)


def privatize(grouping: str = "none", weighting: str = "clip:1", noise: str = "0") -> Any:
    return privatizer(arms_of(grouping, weighting, noise)[0][0], "prv")


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


def test_steps_are_drawn_batches_however_they_are_cut(digits: Task) -> None:
    arm = arms_of("sample", "clip:1", "0")[0][0]
    cut = dataclasses.replace(digits, length=lambda record: 1 + int(record[1]), physical_size=90)
    whole = trial.train(digits, digits.train, setting(epochs=2), privatizer(arm, "prv", digits))
    parts = trial.train(cut, digits.train, setting(epochs=2), privatizer(arm, "prv", cut))
    assert parts.row["steps"] == whole.row["steps"]
    assert [step for step, _ in parts.series["train/loss"]] == [
        step for step, _ in whole.series["train/loss"]
    ]
    assert parts.row["loss"] == pytest.approx(whole.row["loss"], rel=1e-3)
