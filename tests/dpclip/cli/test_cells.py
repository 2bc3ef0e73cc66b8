import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from audits.sweep import Cell, Result, Store, run
from dpclip.cli.cells import work
from dpclip.cli.options import Audit

NAMES = ("families", "secret", "alphabet", "delta", "accountant")
SHARED = {name: getattr(Audit(), name) for name in NAMES}
SHARED |= {"task": "own_tasks:tiny", "references": 10, "canaries": 4, "alpha": 0.05, "seed": 0}
SHARED |= {"lr": 0.5, "batch_size": None, "epochs": 2, "kind": "audit", "tests": 1}
SHARED |= {"gradient_canaries": 0, "pacing": "none"}
CHANGING = ("ex_per_s", "peak_mb")
Ran = Callable[..., Result]


def cell(clip: str = "sample", sigma: float = 0.0, **changes: Any) -> dict[str, Any]:
    rule = {"weighting": "clip", "number": 1.0}
    arm: dict[str, Any] = {
        "none": {"size": None, "weighting": "none", "number": None},
        "sample": {"size": 1, **rule},
        "microbatch": {"size": 4, **rule},
        "core": {"size": 2, **rule},
    }[clip]
    return SHARED | arm | {"clip": clip, "slots": "position", "sigma": sigma} | changes


def steady(result: dict[str, Any]) -> str:
    row = {name: value for name, value in result["row"].items() if name not in CHANGING}
    return repr((row, result["series"], result["canaries"]))


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    """Runs a cell, its manifests in a folder of the test's own."""
    return partial(work, manifests=tmp_path / "manifests")


@pytest.mark.parametrize("clip", ["none", "sample", "microbatch", "core"])
def test_the_same_cell_is_the_same_result_bit_for_bit(clip: str, ran: Ran) -> None:
    sigma = 0.0 if clip == "none" else 0.5
    first, again = (ran(cell(clip, sigma, accountant="rdp")) for _ in range(2))
    assert steady(first) == steady(again)
    assert steady(first) != steady(ran(cell(clip, sigma, accountant="rdp", seed=1)))


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(tmp_path: Path) -> None:
    config = cell("sample", 0.5, task="digits", references=50, epochs=1)
    found = []
    for workers in (0, 1):
        store = Store(tmp_path / f"{workers}", "digits")
        kept = partial(work, manifests=tmp_path / f"{workers}" / "manifests")
        (result,) = run([Cell("x", config)], kept, store, workers, lambda _c, _r: None)
        found.append(
            steady(
                {**result, "series": {k: list(map(tuple, v)) for k, v in result["series"].items()}}
            )
        )
    assert found[0] == found[1]


def test_a_row_says_which_arm_it_is(ran: Ran) -> None:
    row = ran(cell("microbatch", 0.0, slots="random"))["row"]
    assert (row["clip"], row["mb"], row["C"], row["slots"]) == ("microbatch", 4, 1.0, "random")
    assert row["arm"] == "microbatch:4:random clip:1"
    assert row["q"] == pytest.approx(20 / 160, rel=0.5)  # canary copies are records too
    assert row["steps"] == 2 * math.ceil(1 / row["q"])
    assert math.isinf(row["eps"])
    assert row["verdict"] == "not-claimed"
    assert set(row) >= {"acc", "exposure", "auc", "eps_lb", "budget", "manifest", "guarantee"}


def test_noise_claims_an_epsilon(ran: Ran) -> None:
    row = ran(cell("sample", 1.0))["row"]
    assert 0 < row["eps"] < 20
    assert row["verdict"] == "unresolvable"  # four canaries of repetition 1 show nothing
    assert row["eps_lb_by"] == "records"
    assert row["guarantee"].startswith("PRV accounting, Poisson sampling")
    less = ran(cell("sample", 2.0))["row"]
    assert less["eps"] < row["eps"]


def test_noise_on_groups_by_position_warns_nobody_and_claims_nothing(ran: Ran) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = ran(cell("microbatch", 1.0))["row"]
    assert math.isinf(row["eps"])
    assert row["guarantee"].startswith("No epsilon")


def test_canaries_are_told_by_id(ran: Ran) -> None:
    result = ran(cell())
    assert len(result["canaries"]) == 20
    first = result["canaries"][0]
    assert first["id"] == "records/1x/0"
    assert set(first) == {
        *("id", "family", "repetitions", "inserted", "exposure", "low", "high", "before"),
        *("rank", "rank_low", "extracted"),
    }
    inserted = [
        c["exposure"] for c in result["canaries"] if c["inserted"] and c["repetitions"] == 1
    ]
    assert result["row"]["exposure"] == pytest.approx(sum(inserted) / len(inserted))


def test_a_search_cell_is_judged_on_validation_data(ran: Ran) -> None:
    result = ran(cell(kind="search"))
    assert 0 <= result["row"]["validation"] <= 1
    assert result["canaries"] == []
    assert ran(cell("none", kind="search", lr=1e38))["row"]["validation"] is None


def test_weights_are_saved_where_they_are_asked_for(tmp_path: Path, ran: Ran) -> None:
    path = tmp_path / "new" / "w.safetensors"
    result = ran(cell(kind="train", canaries=0), path)
    assert set(load_file(path)) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert 0 <= result["row"]["acc"] <= 1
    assert "exposure" not in result["row"]


def test_a_paced_cell_tells_its_batches(ran: Ran) -> None:
    result = ran(cell("sample", pacing="angle:1.1:60"))
    row, sizes = result["row"], [size for _, size in result["series"]["pace/samples"]]
    assert row["updates"] == len(sizes) < row["steps"]
    assert row["mean_batch"] == pytest.approx(sum(sizes) / len(sizes))
    assert "updates" not in ran(cell("sample"))["row"]


def test_clusters_of_a_task_without_a_layer_are_refused(ran: Ran) -> None:
    with pytest.raises(ValueError, match="the task names no layer"):
        ran(cell("core") | {"clip": "cluster"})


def test_gradient_canaries_test_a_claim_that_records_cannot(ran: Ran, tmp_path: Path) -> None:
    config = cell("sample", 1.0, gradient_canaries=200, tests=3, alpha=0.05 / 3)
    row = ran(config)["row"]
    assert (row["eps_lb_by"], row["n_tests"]) == ("gradient canaries", 3)
    assert row["eps_lb"] <= row["eps"] < row["eps_lb_ceiling"]
    assert row["verdict"] == "consistent"
    folder = tmp_path / "manifests" / Cell("", config).key
    assert {path.name for path in folder.iterdir()} == {"records.json", "gradients.json"}
    plain = ran(cell("sample", 1.0, gradient_canaries=0, tests=3, alpha=0.05 / 3))["row"]
    for name in ("exposure", "acc", "eps", "auc", "manifest"):  # the run itself has none of them
        assert row[name] == plain[name]


def test_a_run_that_claims_nothing_gets_no_gradient_canaries(ran: Ran) -> None:
    assert ran(cell("sample", 0.0, gradient_canaries=200))["row"]["eps_lb_by"] == "records"
    by_position = ran(cell("microbatch", 1.0, gradient_canaries=200))["row"]
    assert (by_position["eps_lb_by"], by_position["verdict"]) == ("records", "not-claimed")
