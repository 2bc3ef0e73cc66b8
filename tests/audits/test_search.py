from typing import Any

import pytest

from audits.search import SEEDS, best_rate, search_cells


def tried(*pairs: tuple[float | None, float]) -> list[dict[str, Any]]:
    return [{"row": {"validation": value, "lr": rate}} for value, rate in pairs]


def test_one_cell_for_each_rate_and_search_seed() -> None:
    cells = search_cells({"clip": "sample", "seed": 0, "lr": 9.0}, "sample", (0.1, 1.0))
    assert [dict(cell.config) for cell in cells] == [
        {"clip": "sample", "kind": "search", "seed": seed, "lr": rate}
        for rate in (0.1, 1.0)
        for seed in SEEDS
    ]
    assert {cell.label for cell in cells} == {"sample lr 0.1", "sample lr 1"}
    assert len({cell.key for cell in cells}) == len(cells)


def test_the_best_rate_is_by_the_metrics_own_direction() -> None:
    results = tried((0.9, 0.1), (0.95, 0.5), (0.2, 1.0))
    assert best_rate(results, True, "arm") == 0.5
    assert best_rate(results, False, "arm") == 1.0


def test_the_mean_over_the_search_seeds_decides() -> None:
    results = tried((0.9, 0.1), (0.5, 0.1), (0.8, 0.5), (0.8, 0.5))
    assert best_rate(results, True, "arm") == 0.5


@pytest.mark.parametrize("higher", [True, False])
def test_of_equals_the_smaller_rate_wins(higher: bool) -> None:
    assert best_rate(tried((0.9, 1.0), (0.9, 0.1), (0.9, 0.5)), higher, "arm") == 0.1


def test_a_rate_at_which_any_run_diverged_is_passed_over() -> None:
    results = tried((None, 0.1), (3.0, 0.5), (None, 1.0), (1.0, 1.0))
    assert best_rate(results, False, "arm") == 0.5


def test_nothing_left_is_a_failure_of_that_arm() -> None:
    told = r"sample clip:1: training diverged at every rate of the search \(0.1, 3\)"
    with pytest.raises(RuntimeError, match=told):
        best_rate(tried((None, 0.1), (None, 3.0)), True, "sample clip:1")
