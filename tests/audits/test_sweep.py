import json
import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from audits.sweep import Cell, Result, Store, run


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return import_module("jobs")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "made up")


def cells(*numbers: int) -> list[Cell]:
    return [Cell(f"cell {number}", {"number": number}) for number in numbers]


def nothing(_cell: Cell, _result: Result) -> None:
    pass


def values(results: list[Result]) -> list[int]:
    return [result["row"]["value"] for result in results]


def test_a_cell_is_named_by_its_config_alone() -> None:
    assert Cell("a", {"x": 1, "y": None}).key == Cell("b", {"y": None, "x": 1}).key
    assert Cell("a", {"x": 1}).key != Cell("a", {"x": 2}).key
    assert Cell("a", {"x": 1}).key != Cell("a", {"x": "1"}).key
    assert Cell("a", {"x": True}).key != Cell("a", {"x": 1}).key


def test_results_come_in_the_order_of_the_cells(store: Store, jobs: Any) -> None:
    seen = []
    found = run(cells(3, 1, 2), jobs.double, store, 0, lambda cell, _: seen.append(cell.label))
    assert values(found) == [6, 2, 4]
    assert seen == ["cell 3", "cell 1", "cell 2"]


def test_no_cell_is_run_twice(store: Store, jobs: Any) -> None:
    run(cells(1, 2), jobs.double, store, 0, nothing)

    def fails(config: Any) -> Result:
        if config["number"] != 3:
            raise AssertionError("run twice")
        return dict(jobs.double(config))

    assert values(run(cells(3, 2, 1), fails, store, 0, nothing)) == [6, 4, 2]
    assert values(run(cells(1, 2), fails, store, 0, nothing)) == [2, 4]
    assert run([], fails, store, 2, nothing) == []


def test_not_finite_numbers_survive(store: Store) -> None:
    row = {"eps": float("inf"), "low": float("nan"), "none": None, "text": "ü", "flag": True}
    store.write(cells(1)[0], {"row": row})
    found = store.read(cells(1)[0])
    assert found is not None
    assert repr(found["row"]) == repr(row)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", '{"config": {"number": 1}}', '{"result": {"row": {}}}', "ü\0"],
)
def test_a_damaged_file_is_no_result(store: Store, jobs: Any, content: str) -> None:
    (cell,) = cells(1)
    run([cell], jobs.double, store, 0, nothing)
    (path,) = store.cells.iterdir()
    path.write_text(content)
    assert store.read(cell) is None
    assert values(run([cell], jobs.double, store, 0, nothing)) == [2]
    assert store.read(cell) is not None


def test_a_file_of_another_config_is_no_result(store: Store) -> None:
    (cell,) = cells(1)
    store.write(cell, {"row": {}})
    (path,) = store.cells.iterdir()
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"config": {"number": 2}}))
    assert store.read(cell) is None


def test_no_draft_is_left(store: Store, jobs: Any) -> None:
    run(cells(1, 2), jobs.double, store, 0, nothing)
    names = sorted(path.name for path in store.directory.rglob("*") if path.is_file())
    assert names == sorted(["task", *(f"{cell.key}.json" for cell in cells(1, 2))])


def test_a_store_belongs_to_one_task(store: Store) -> None:
    Store(store.directory, "made up")
    with pytest.raises(ValueError, match="holds runs of task 'made up', not 'other'"):
        Store(store.directory, "other")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        Store(tmp_path / place, "made up")


def test_a_store_that_may_only_be_read_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may write anywhere
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\)"):
        Store(store.directory, "made up")


def test_a_failure_names_its_cell_and_keeps_what_was_done(store: Store, jobs: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^cell 1: 1 is odd$"):
        run(cells(2, 1, 4), jobs.odd_fails, store, 0, nothing)
    assert [store.read(cell) is not None for cell in cells(2, 1, 4)] == [True, False, False]


def test_the_number_of_threads_is_one_and_is_put_back(store: Store, jobs: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (found,) = run(cells(1), jobs.threads, store, 0, nothing)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found["row"]["threads"] == 1


@pytest.mark.slow
def test_workers_share_the_cells(store: Store, jobs: Any) -> None:
    found = run(cells(*range(6)), jobs.double, store, 2, nothing)
    assert values(found) == [0, 2, 4, 6, 8, 10]
    assert os.getpid() not in {result["row"]["process"] for result in found}
    (again,) = run(cells(7), jobs.threads, store, 1, nothing)
    assert again["row"]["threads"] == 1


@pytest.mark.slow
def test_a_failing_worker_lets_the_running_ones_finish(store: Store, jobs: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^cell 1: 1 is odd$"):
        run(cells(2, 1, *range(4, 40, 2)), jobs.odd_fails, store, 2, nothing)
    kept = [store.read(cell) is not None for cell in cells(2, 1, *range(4, 40, 2))]
    assert kept[0]
    assert not kept[1]
    assert sum(kept) < 6  # those that had begun or were about to


@pytest.mark.slow
def test_a_worker_that_is_killed_is_a_failure(store: Store, jobs: Any) -> None:
    with pytest.raises(RuntimeError, match=r"A worker process died .*Finished runs are kept"):
        run(cells(1, 2), jobs.dies, store, 1, nothing)


@pytest.mark.slow
def test_an_interruption_ends_the_workers_at_once(
    store: Store, jobs: Any, tmp_path: Path, interrupted: Callable[[], None]
) -> None:
    waiting = [Cell("waits", {"number": n, "folder": str(tmp_path)}) for n in range(3)]
    interrupted()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(waiting, jobs.waits, store, 2, nothing)
    assert time.monotonic() - started < 45  # a cell takes 60 seconds
    begun = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert begun
    assert not [process for process in begun if Path(f"/proc/{process}").exists()]


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Ctrl-C for this process, once a worker has begun."""
    import signal
    import threading

    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.05):
            if any(path.name.isdigit() for path in tmp_path.iterdir()):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch)
    yield thread.start
    stopped.set()
    thread.join()
