import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpclip.arms import arms_of
from dpclip.cli.checks import check_options, rehearse
from dpclip.cli.options import Audit, Train
from dpclip.cli.tasks import task_of


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("seeds", "canaries", "references", "epochs", "batch_size", "lr")),
        *({name: -1} for name in ("first_seed", "workers", "lr")),
        *({name: value} for name in ("delta", "alpha") for value in (0.0, 1.0, float("nan"))),
        {"lr": float("inf")},
        {"accountant": "gdp"},
    ],
)
def test_a_number_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        check_options(replace(Audit(), **wrong))
    if name in Train.__dataclass_fields__:
        with pytest.raises(ValueError, match=name):
            check_options(replace(Train(), **wrong))


def test_a_rate_is_given_or_searched_for() -> None:
    check_options(Audit(search=True))
    check_options(Audit(lr=0.1, workers=0))
    with pytest.raises(ValueError, match="Give one of the two"):
        check_options(Audit(search=True, lr=0.1))


def rehearsed(name: str, groupings: str = "none,sample", **changes: Any) -> None:
    config = {"task": f"own_tasks:{name}", "families": None, "references": 10, "canaries": 2}
    config |= {"batch_size": None, "epochs": None, "accountant": "prv", "delta": 1e-5} | changes
    arms, _ = arms_of(groupings, "clip:1", "0,1")
    rehearse(task_of(config), arms, config, seed=0)


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def test_a_good_task_passes_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rehearsed("tiny", "none,sample,microbatch:4,microbatch:4:random,core:2,core:2:fixed")


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("normalized", {}, "BatchNorm1d, which mixes the samples"),
        ("forgetful", {}, "1 trainable parameters are not in the optimizer"),
        ("lbfgs", {}, "LBFGS"),
        ("averaged", {}, 'expected one loss for each; use reduction="none"'),
        ("few", {}, "4 records standing by for canaries, and 12 are needed"),
        ("tiny", {"canaries": 8}, "40 records standing by for canaries, and 50 are needed"),
        ("tiny", {"batch_size": 3, "groupings": "microbatch:4"}, "needs batches of 4 or more"),
        ("tiny", {"batch_size": 3, "groupings": "core:4:fixed"}, "the batch size is 3"),
    ],
)
def test_what_training_would_stumble_over(name: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rehearsed(name, **changes)


def test_without_canaries_none_are_needed() -> None:
    rehearsed("few", canaries=0)
