"""Gradient canaries in a real training run: they see what is claimed, and when it is not kept."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audits import trial
from audits.declaration import Refused
from audits.gradient_audit import Claimed, GradientCanaries, audit, declare, judged, prospects
from audits.tasks import Task
from audits.trial import Setting
from canaries import digest
from dpclip.arms import Arm, arms_of
from dpclip.cli.cells import privatizer
from dpclip.cli.claims import promise
from dpclip.cli.manifests import safe
from dpclip.cli.tasks import gradient_canaries, task_of

CANARIES = 1000
ARMS = ("sample", "microbatch:4:random", "core:4:fixed")


@pytest.fixture(scope="module")
def task() -> Task:
    config = {"task": "digits", "families": None, "batch_size": 64}
    made = task_of(config | {"epochs": 10, "references": 20})
    return dataclasses.replace(made, train=torch.utils.data.Subset(made.train, range(640)))


def setting(**changes: Any) -> Setting:
    return Setting(**{"seed": 3, "lr": 0.05, "epochs": 10, "delta": 1e-5, "tests": 6} | changes)


def arm_of(grouping: str, noise: str = "1") -> Arm:
    return arms_of(grouping, "clip:0.1", noise)[0][0]


def run(task: Task, arm: Arm, claimed: Claimed, folder: Path, seed: int = 3) -> dict[str, Any]:
    group = gradient_canaries(task, CANARIES, seed)
    planted = GradientCanaries(
        group.ids, group.coins, group.observed, group.beside, digest(group.coins)
    )
    return audit(
        task,
        task.train,
        setting(seed=seed),
        privatizer(arm, "prv", groups=group),
        planted,
        claimed,
        safe(folder, "gradients"),
    )


@pytest.mark.parametrize("grouping", ARMS)
def test_a_run_that_is_as_claimed_is_near_the_expected_bound(
    task: Task, grouping: str, tmp_path: Path
) -> None:
    arm = arm_of(grouping)
    promised = promise(arm, task, 640, 1e-5, "prv")
    assert promised is not None
    assert promised.claimed == (0.1, 100, 1.0)
    row = run(task, arm, promised.claimed, tmp_path)
    assert 0 < row["eps_lb"] < promised.epsilon
    assert row["eps_lb"] == pytest.approx(row["eps_lb_expected"], rel=0.5)
    assert row["eps_lb_ceiling"] > promised.epsilon
    assert row["coin_p"] < 0.01
    assert (row["eps_lb_by"], row["n_tests"], row["lb_canaries"]) == ("gradient canaries", 6, 1000)


@pytest.mark.parametrize("grouping", ARMS)
def test_a_run_with_a_third_of_the_noise_contradicts_its_claim(
    task: Task, grouping: str, tmp_path: Path
) -> None:
    promised = promise(arm_of(grouping), task, 640, 1e-5, "prv")
    assert promised is not None
    row = run(task, arm_of(grouping, "0.333"), promised.claimed, tmp_path)
    assert row["eps_lb"] > promised.epsilon


def test_a_run_that_takes_other_steps_says_nothing_of_the_claim(task: Task, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"took 100 steps at q = 0.1, and 101 at 0.1 were declared"
    ):
        run(task, arm_of("sample"), Claimed(0.1, 101, 1.0), tmp_path)


def test_it_is_declared_before_training(task: Task, tmp_path: Path) -> None:
    seen = []

    def model(seed: int) -> torch.nn.Module:
        seen.append((tmp_path / "gradients.json").exists())
        return task.model(seed)

    group = gradient_canaries(task, CANARIES, 3)
    planted = GradientCanaries(group.ids, group.coins, group.observed, group.beside, "")
    audit(
        dataclasses.replace(task, model=model),
        task.train,
        setting(),
        privatizer(arm_of("sample"), "prv", groups=group),
        planted,
        Claimed(0.1, 100, 1.0),
        safe(tmp_path, "gradients"),
    )
    assert seen == [True]
    stored = json.loads((tmp_path / "gradients.json").read_text())["manifest"]
    assert stored["threshold"] is not None
    assert stored["coins"] == group.coins.tolist()


def test_canaries_change_neither_batches_nor_what_is_claimed(task: Task, tmp_path: Path) -> None:
    arm = arm_of("sample")
    plain = trial.train(task, task.train, setting(), privatizer(arm, "prv")).row
    group = gradient_canaries(task, CANARIES, 3)
    joined = trial.train(task, task.train, setting(), privatizer(arm, "prv", groups=group)).row
    assert (plain["steps"], plain["q"], plain["eps"]) == (
        joined["steps"],
        joined["q"],
        joined["eps"],
    )
    assert "1000 Dirac canaries" in str(joined["guarantee"])


def test_scores_of_another_attack_or_panel_give_no_number(task: Task) -> None:
    group = gradient_canaries(task, CANARIES, 3)
    planted = GradientCanaries(group.ids, group.coins, group.observed, group.beside, "")
    claimed = Claimed(0.1, 100, 1.0)
    declared = declare(planted, setting())
    scores = dict.fromkeys(group.ids, 0.0)
    with pytest.raises(Refused, match="likelihood ratio"):
        judged(dataclasses.replace(declared, attack="sum of updates"), claimed, scores)
    with pytest.raises(Refused, match="gradient/7"):
        judged(declared, claimed, {k: v for k, v in scores.items() if k != "gradient/7"})
    with pytest.raises(Refused, match="1 scores are NaN"):
        judged(declared, claimed, scores | {"gradient/7": np.nan})


def test_the_prospects_grow_with_the_canaries() -> None:
    claimed = Claimed(0.1, 20, 1.0)
    few, many = (prospects(m, claimed, 3.6, setting()) for m in (20, 1000))
    assert few.ceiling < many.ceiling
    assert few.expected < many.expected < 3.6
