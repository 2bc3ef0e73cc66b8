"""Canaries ranked by what a model makes of them, ties against memorization."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from audits import record_audit, trial
from audits.error_ranks import error_ranks
from audits.planted import Planted
from audits.tasks import Family, Task
from dpclip.arms import arms_of
from dpclip.cli.cells import privatizer
from dpclip.cli.manifests import safe
from dpclip.cli.tasks import plant
from dpclip.measure import gradient_norms


def written(model: nn.Module, records: Sequence[Any]) -> NDArray[np.float64]:
    """The error rate is what is written in a record; asked in eval mode only."""
    assert not model.training
    return np.array([float(record) for record in records])


def unused(*_: Any) -> Any:
    raise AssertionError("this test scores by errors alone")


def planted(records: list[float], families: list[str], references: dict[str, Any]) -> Planted:
    n = len(records)
    return Planted(
        train=TensorDataset(),
        ids=[str(i) for i in range(n)],
        families=np.array(families),
        repetitions=np.ones(n, dtype=np.int64),
        inserted=np.ones(n, dtype=np.bool_),
        records=records,
        references=references,
        budget=0.0,
        manifest="",
    )


def with_families(task: Task, families: dict[str, Family]) -> Task:
    return dataclasses.replace(task, families=families)


def test_ties_count_against_memorization(digits: Task) -> None:
    twins = [0.0] * 3 + [0.5] * 4 + [1.0] * 8  # 15 references
    panel = planted([0.0, 0.5, 0.2, 1.0], ["a"] * 4, {"a": twins})
    model = nn.Linear(1, 1)
    family = Family(unused, unused, len(twins), errors=written)
    found = error_ranks(with_families(digits, {"a": family}), model, panel)
    # log2(16 / (1 + references with as few errors))
    assert found.bits == pytest.approx([math.log2(16 / k) for k in (4, 8, 4, 16)])
    assert found.rate.tolist() == [0.0, 0.5, 0.2, 1.0]
    assert found.held_out == pytest.approx([10 / 15] * 4)
    assert model.training, "the model's mode was not put back"


def test_families_are_ranked_among_their_own_and_some_have_no_errors(digits: Task) -> None:
    panel = planted([0.1, 0.1, 0.1], ["a", "b", "c"], {"a": [0.0] * 7, "b": [0.5] * 7, "c": [1.0]})
    families = {
        "a": Family(unused, unused, 7, errors=written),
        "b": Family(unused, unused, 7, errors=written),
        "c": Family(unused, unused, 1),
    }
    found = error_ranks(with_families(digits, families), nn.Linear(1, 1), panel)
    assert found.bits[:2] == pytest.approx([0.0, 3.0])
    assert found.known.tolist() == [True, True, False]
    assert math.isnan(found.bits[2])


def test_errors_need_references_to_be_ranked_among() -> None:
    with pytest.raises(ValueError, match="at least 1 reference, found 0"):
        Family(unused, unused, 0, errors=written)


def test_an_audit_tells_errors_beside_losses(digits: Task, tmp_path: Path) -> None:
    def wrong(model: nn.Module, records: Sequence[Any]) -> NDArray[np.float64]:
        """Share of a record's label among the wrong: 0 where the digit is recognised."""
        return np.array([float(model(x[None]).argmax() != y) for x, y in records], dtype=np.float64)

    families = {
        name: dataclasses.replace(family, references=50, errors=wrong)
        for name, family in digits.families.items()
        if name == "mislabelled"
    }
    task = with_families(digits, families)
    outcome = record_audit.audit(
        task,
        plant(task, 6, 0),
        trial.Setting(seed=0, lr=0.2, epochs=15, delta=1e-5),
        privatizer(arms_of("none", "clip:1", "0")[0][0], "prv"),
        gradient_norms,
        safe(tmp_path / "panel", "records"),
    )
    row, table = outcome.row, outcome.canaries
    rates = {
        inserted: [c["error"] for c in table if c["inserted"] is inserted]
        for inserted in (True, False)
    }
    assert row["error_in"] == pytest.approx(np.mean(rates[True]))
    # A wrong label is learned by heart or not at all.
    assert row["error_in"] < row["error_out"] - 0.3
    once = [c["exposure_by_error"] for c in table if c["inserted"] and c["repetitions"] == 1]
    assert row["exp_error"] == pytest.approx(np.mean(once))
    assert row["exp_error_low"] <= row["exp_error"] <= row["exp_error_high"]
    assert [c["error_held_out"] for c in table] == pytest.approx([row["error_out"]] * len(table))


def test_tasks_without_errors_have_no_such_columns(digits: Task, tmp_path: Path) -> None:
    outcome = record_audit.audit(
        dataclasses.replace(digits, epochs=1),
        plant(digits, 4, 0),
        trial.Setting(seed=0, lr=0.2, epochs=1, delta=1e-5),
        privatizer(arms_of("none", "clip:1", "0")[0][0], "prv"),
        gradient_norms,
        safe(tmp_path / "panel", "records"),
    )
    assert "exp_error" not in outcome.row
    assert "error" not in outcome.canaries[0]
