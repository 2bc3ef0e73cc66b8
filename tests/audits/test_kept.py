import os
from pathlib import Path
from typing import Any

import pytest

from audits.kept import kept, latest
from audits.sweep import Cell, Store


def write(store: Store, result: dict[str, Any] | None = None, **config: Any) -> None:
    store.write(Cell("", config), result or {"row": {"seed": config.get("seed", 0)}})


def test_finished_cells_come_back_oldest_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "tiny")
    for seed in (3, 1, 2):
        write(store, seed=seed)
        os.utime(store.cells / f"{Cell('', {'seed': seed}).key}.json", (seed, seed))
    found = kept(tmp_path / "store")
    assert [one.config["seed"] for one in found] == [1, 2, 3]
    assert [one.result["row"]["seed"] for one in found] == [1, 2, 3]


def test_looking_makes_nothing(tmp_path: Path) -> None:
    assert kept(tmp_path / "none") == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"config": {}}', '{"config": {}, "result": {"no": 1}}']
)
def test_what_is_no_finished_cell_is_passed_over(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path, "tiny")
    write(store, seed=1)
    (store.cells / "half.json").write_text(text)
    (store.cells / ".half.json.123").write_text("being written")
    assert [one.config["seed"] for one in kept(tmp_path)] == [1]


def test_the_latest_sweep_is_that_of_the_last_cell(tmp_path: Path) -> None:
    store = Store(tmp_path, "tiny")
    for when, (epochs, seed) in enumerate([(1, 0), (2, 0), (1, 1), (2, 1)]):
        write(store, epochs=epochs, seed=seed)
        key = Cell("", {"epochs": epochs, "seed": seed}).key
        os.utime(store.cells / f"{key}.json", (when, when))
    found = latest(kept(tmp_path), frozenset({"seed"}))
    assert [(one.config["epochs"], one.config["seed"]) for one in found] == [(2, 0), (2, 1)]
    assert latest([], frozenset()) == []
