import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audits.tasks import Task, images, reuters
from dpclip.cli.digests import made_of, records_digest
from dpclip.cli.options import Audit
from dpclip.cli.tasks import plant, task_of
from dpclip.measure import gradient_norms
from tests.audits.tasks import folders

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
        ({"task": "reuters"}, "Task reuters reads your data: give its path, --data PATH"),
        ({"task": "images", "data": "nowhere"}, "nowhere does not exist"),
        ({"task": "digits", "data": "x"}, "digits reads no data by path: leave out --data"),
        ({"task": "own_tasks:tiny", "limit": 3}, "reads no data by path: leave out --limit"),
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


def test_the_working_directory_comes_before_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `benchmarks`, which other packages install at top level too."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name in ((here, "tiny"), (there, "unnamed")):
        folder.mkdir()
        (folder / "shared_name.py").write_text(f"from own_tasks import {name} as mine\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(there)
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    assert task_of(config(task="shared_name:mine")).name == "tiny"


def test_a_file_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "beside_me.py").write_text("from own_tasks import tiny as mine\n")
    task = task_of(config(task="beside_me:mine", epochs=7, batch_size=5))
    assert (task.name, task.epochs, task.batch_size) == ("tiny", 7, 5)
    assert list(task.families) == ["records"]


def test_families_are_chosen_in_the_order_given() -> None:
    assert list(task_of(config()).families) == ["noise", "mislabelled"]
    assert list(task_of(config(families="mislabelled, noise")).families) == ["mislabelled", "noise"]
    assert list(task_of(config(families="noise")).families) == ["noise"]


BY_PATH = {
    "reuters": (folders.reuters, ["mislabelled"]),
    "reuters52": (folders.reuters, ["mislabelled"]),
    "images": (folders.images, ["noise", "mislabelled"]),
    "translation": (folders.pairs, ["words", "records"]),
}


@pytest.fixture
def by_path(tmp_path: Path) -> Callable[..., Task]:
    """A task on tiny data in its layout."""

    def make(name: str, **changes: Any) -> Task:
        if name == "translation":
            pytest.importorskip("tokenizers")
            pytest.importorskip("sacrebleu")
        if not (tmp_path / name).exists():
            BY_PATH[name][0](tmp_path / name)
        chosen = {"task": name, "data": str(tmp_path / name), "references": 10, **changes}
        return task_of(config(**chosen))

    return make


@pytest.mark.parametrize("name", BY_PATH)
def test_tasks_by_path_have_their_families_and_limits(
    name: str, by_path: Callable[..., Task]
) -> None:
    task = by_path(name, limit=11, epochs=2)
    assert list(task.families) == BY_PATH[name][1]
    assert all(family.references == 10 for family in task.families.values())
    assert len(task.train) == 11  # type: ignore[arg-type]
    assert len(by_path(name).train) > 100  # type: ignore[arg-type]
    assert task.epochs == 2
    with pytest.raises(ValueError, match="The limit is 0 training records"):
        by_path(name, limit=0)


@pytest.mark.parametrize("name", ["reuters", "images"])
def test_mislabelled_canaries_are_of_the_pool_with_wrong_labels(
    name: str, by_path: Callable[..., Task], tmp_path: Path
) -> None:
    family = by_path(name).families["mislabelled"]
    data = (reuters if name == "reuters" else images).load(tmp_path / name)
    true = {x.numpy().tobytes(): int(y) for x, y in zip(*data.pool.tensors, strict=True)}
    drawn = family.draw(30, np.random.default_rng(0))
    assert all(true[x.numpy().tobytes()] != int(y) for x, y in (drawn[i] for i in range(30)))


@pytest.mark.parametrize("name", ["reuters", "images", "translation"])
def test_a_record_has_the_gradient_of_itself_alone(name: str, by_path: Callable[..., Task]) -> None:
    """What a claim rests on, and that the engine knows all layers: against one record at a time."""
    task = by_path(name, limit=20)
    model, records = task.model(0).double(), task.train
    batch = [t.double() if t.is_floating_point() else t for t in records[:4]]
    found = gradient_norms(model, task.losses, batch)
    slow = []
    for i in range(4):
        model.zero_grad()
        task.losses(model, [t[i : i + 1] for t in batch]).sum().backward()
        grads = [p.grad for p in model.parameters()]
        assert all(g is not None for g in grads)
        slow.append(torch.stack([g.norm() for g in grads if g is not None]).norm())
    assert torch.allclose(found, torch.stack(slow), rtol=1e-6)


@pytest.mark.parametrize("name", ["digits", "own_tasks:tiny", "text", *BY_PATH])
def test_planted_canaries_are_where_the_panel_says(name: str, by_path: Callable[..., Task]) -> None:
    task = by_path(name) if name in BY_PATH else task_of(config(task=name, secret="pin {}{}"))
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


def test_a_digest_of_records_is_of_their_content_and_number() -> None:
    records = [(torch.ones(2) * i, i) for i in range(100)]
    told = records_digest(records)
    assert told == records_digest([(torch.ones(2) * i, i) for i in range(100)])
    assert told != records_digest(records[:99])
    assert told != records_digest([*records[:-1], (torch.zeros(2), 99)])
    assert records_digest(records[:3]) != records_digest(records[:2])
    assert records_digest([object()]) == ""


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_what_a_run_is_made_of_are_all_its_records(part: str) -> None:
    task = task_of(config(task="own_tasks:tiny", references=20))
    planted = plant(task, 2, seed=0)
    before = made_of(task), made_of(task, planted)
    assert before == (made_of(task), made_of(task, plant(task, 2, seed=0)))
    records = [tuple(t.clone() for t in record) for record in getattr(task, part)]
    for place in (0, len(records) // 2 + 1, len(records) - 1):
        changed = [*records[:place], (records[place][0] + 1, *records[place][1:])]
        other = dataclasses.replace(task, **{part: [*changed, *records[place + 1 :]]})
        assert made_of(other) != before[0]
        assert made_of(other, planted) != before[1]


def test_references_are_part_of_what_a_run_is_made_of() -> None:
    task = task_of(config(task="own_tasks:tiny", references=20))
    planted = plant(task, 2, seed=0)
    twins = {name: list(rows) for name, rows in planted.references.items()}
    twins["records"][7] = twins["records"][8]
    assert made_of(task, planted) != made_of(task, dataclasses.replace(planted, references=twins))


def test_nothing_can_be_said_of_records_of_other_kinds() -> None:
    task = task_of(config(task="own_tasks:tiny", references=20))
    assert made_of(dataclasses.replace(task, test=[object()])) == ""
