from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpclip.cli.options import Audit
from dpclip.cli.tasks import plant, task_of

SMALL = {"canaries": 2, "references": 20}


def config(**changes: Any) -> dict[str, Any]:
    names = ("task", "batch_size", "epochs", "families", "secret", "alphabet", "references")
    return {name: getattr(Audit(), name) for name in names} | SMALL | changes


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "bogus"}, "Unknown task 'bogus'"),
        ({"task": "nowhere:task"}, "cannot be loaded: ModuleNotFoundError: No module named"),
        ({"task": "own_tasks:missing"}, "has no attribute 'missing'"),
        ({"task": "own_tasks:number"}, "returned a int: expected an audits.tasks.Task"),
        ({"task": "own_tasks:LIMIT"}, "cannot be loaded: TypeError"),
        ({"task": "own_tasks:broken"}, "cannot be loaded: KeyError: 'data'"),
        ({"task": ":f"}, "cannot be loaded"),
        ({"task": "own_tasks:unknown_metric"}, "metric is 'f1': expected one of acc"),
        ({"task": "own_tasks:unnamed"}, "name is 'a/b'"),
        ({"families": "bogus"}, "no canary family 'bogus': expected any of noise, mislabelled"),
        ({"task": "text", "secret": "pin \udcff{}"}, "surrogates not allowed"),
        ({"task": "text", "secret": "{}{} is it"}, "begins with a hole"),
        ({"task": "text", "secret": "no hole"}, "no hole"),
        ({"task": "text", "secret": "{name}"}, "field"),
        ({"task": "text", "secret": "{"}, "brace"),
        (
            {"task": "text", "secret": 70 * "x" + "{}"},
            "72 bytes with its newline for records of 64",
        ),
        ({"task": "text", "alphabet": "äö"}, "letters of 2 bytes"),
        ({"task": "text", "alphabet": "aö"}, "different length"),
        ({"task": "text", "alphabet": "a"}, "alphabet of 1"),
    ],
)
def test_what_is_no_task_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        task_of(config(**changes))


def test_a_format_of_too_many_fillings_is_ranked_among_references() -> None:
    family = task_of(config(task="text", secret="pin " + 9 * "{}")).families["secret"]
    assert family.vast is not None
    assert family.vast.size == 10**9
    assert (family.space, family.references) == (None, config()["references"])


def test_a_file_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "beside_me.py").write_text("from own_tasks import tiny as mine\n")
    task = task_of(config(task="beside_me:mine", epochs=7, batch_size=5))
    assert (task.name, task.epochs, task.batch_size) == ("tiny", 7, 5)
    assert list(task.families) == ["records"]


def test_families_are_chosen_in_the_order_given() -> None:
    assert list(task_of(config()).families) == ["noise", "mislabelled"]
    assert list(task_of(config(families="mislabelled, noise")).families) == ["mislabelled", "noise"]
    assert list(task_of(config(families="noise")).families) == ["noise"]


@pytest.mark.parametrize("name", ["digits", "own_tasks:tiny", "text"])
def test_planted_canaries_are_where_the_panel_says(name: str) -> None:
    task = task_of(config(task=name, secret="pin {}{}"))
    planted = plant(task, 3, seed=5)
    train: Any = planted.train
    copies = int(planted.repetitions[planted.inserted].sum())
    assert len(train) == len(task.train) + copies  # type: ignore[arg-type]
    assert planted.budget == pytest.approx(copies / len(train))
    for number, record in enumerate(planted.records):
        places = train.positions[number]
        expected = planted.repetitions[number] if planted.inserted[number] else 0
        assert len(places) == expected
        for place in places:
            assert all(torch.equal(a, b) for a, b in zip(train[int(place)], record, strict=True))
    assert list(planted.families) == [identity.split("/")[0] for identity in planted.ids]


def test_the_seed_decides_the_panel_and_nothing_else_does() -> None:
    task = task_of(config())
    first, again, other = plant(task, 3, 0), plant(task, 3, 0), plant(task, 3, 1)
    assert first.manifest == again.manifest != other.manifest
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first.records, again.records, strict=True))
    assert not torch.equal(first.records[0][0], other.records[0][0])
    assert not np.array_equal(first.inserted, other.inserted)


def test_canaries_and_references_are_different_records() -> None:
    task = task_of(config(task="own_tasks:tiny", references=20))
    planted = plant(task, 2, seed=0)
    mine = {tuple(record[0].tolist()) for record in planted.records}
    twins = {tuple(record[0].tolist()) for record in planted.references["records"]}
    data = {tuple(record[0].tolist()) for record in task.train}  # type: ignore[attr-defined]
    assert (len(mine), len(twins)) == (10, 20)
    assert not mine & twins
    assert not data & (mine | twins)
