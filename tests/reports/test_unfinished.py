import time
from pathlib import Path
from typing import Any

import pytest

from reports.tracking import fail, log_run, open_experiment, start_run, start_sweep
from reports.unfinished import duration, unfinished


def test_only_runs_that_have_not_ended_are_listed_oldest_first(own_store: Path, row: Any) -> None:
    experiment = open_experiment(own_store, "digits")
    other = open_experiment(own_store, "text")
    log_run(experiment, row())
    fail(experiment, start_run(experiment, row(seed=8)), ValueError())
    now = time.time()
    young = start_run(other, row(seed=1))
    old = start_sweep(experiment, "sweep", started=now - 7200)
    experiment.client.log_metric(young, "train/loss", 1.0, int((now + 3600) * 1000), 1)

    first, second = unfinished(own_store, now + 7200)
    assert (first.run_id, first.kind, first.name) == (old, "sweep", "sweep")
    assert first.age == first.silent == pytest.approx(14400, abs=5)
    assert (second.run_id, second.kind, second.experiment) == (young, "train", "dpclip-text")
    assert (second.age, second.silent) == pytest.approx((7200, 3600), abs=5)
    assert str(first) == (
        f"dpclip-digits: sweep 'sweep' ({old}) began 4 hours ago, last heard of 4 hours ago"
    )


def test_runs_of_others_are_not_ours(own_store: Path) -> None:
    client = open_experiment(own_store, "digits").client
    client.create_run(client.create_experiment("elsewhere"))
    assert unfinished(own_store) == []


def test_a_store_without_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"has no mlflow\.db, expected the folder"):
        unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, "0 seconds"), (1, "1 second"), (119, "1 minute"), (7300, "2 hours"), (2e5, "2 days")],
)
def test_lengths_of_time_are_read_at_a_glance(seconds: float, told: str) -> None:
    assert duration(seconds) == told
