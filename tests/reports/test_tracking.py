import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from reports.arms import COLORS
from reports.rows import Row
from reports.tracking import (
    CHUNK,
    TAG_LIMIT,
    Experiment,
    Origin,
    ended,
    fail,
    finish,
    has_run,
    log_run,
    open_experiment,
    start_run,
    start_sweep,
    tracking_uri,
)

# MLflow 3.17 asks SQLAlchemy 2.1 for a loader that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

MakeRow = Callable[..., dict[str, Any]]
NOISE = {"clip": "sample", "weighting": "clip", "C": 1.0, "sigma": 0.5, "mb": 1, "seed": 2}
CLAIM = {"eps": 3.14159, "guarantee": "(3.14, 1e-05), example level, PRV", "verdict": "consistent"}


@pytest.fixture
def store(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "a store"
    store.mkdir()
    shutil.copy(migrated, store / "mlflow.db")
    yield store


@pytest.fixture
def experiment(store: Path) -> Experiment:
    return open_experiment(store, "digits")


def test_the_store_is_a_database_beside_its_artifacts(store: Path, experiment: Experiment) -> None:
    assert tracking_uri(store) == f"sqlite:///{store}/mlflow.db"
    found = experiment.client.get_experiment(experiment.id)
    assert found.name == "dpclip-digits"
    assert found.artifact_location == (store / "artifacts").as_uri()


def test_the_users_tracking_uri_wins(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert tracking_uri(store) == "http://tracking.example:5000"


def test_opening_twice_is_the_same_experiment(store: Path, experiment: Experiment) -> None:
    assert open_experiment(store, "digits").id == experiment.id
    assert open_experiment(store, "text").id != experiment.id


def test_a_deleted_experiment_is_refused_with_the_way_back(
    store: Path, experiment: Experiment
) -> None:
    experiment.client.delete_experiment(experiment.id)
    with pytest.raises(ValueError, match="was deleted, expected an active one") as found:
        open_experiment(store, "digits")
    command = shlex.split(str(found.value).split("`")[1])
    assert command[0] == f"MLFLOW_TRACKING_URI={tracking_uri(store)}"
    assert command[1:] == ["mlflow", "experiments", "restore", "--experiment-id", experiment.id]
    experiment.client.restore_experiment(experiment.id)
    assert open_experiment(store, "digits").id == experiment.id


def test_an_experiment_that_another_process_made_first_is_taken(
    store: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there when this process looked, and is when it makes it."""
    look = MlflowClient.get_experiment_by_name
    seen: list[str] = []

    def late(client: MlflowClient, name: str) -> Any:
        seen.append(name)
        return None if len(seen) == 1 else look(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    assert open_experiment(store, "digits").id == experiment.id
    assert len(seen) == 2


def test_a_task_with_a_slash_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="task is 'my/task', expected a name without a slash"):
        open_experiment(store, "my/task")


def test_telemetry_is_off_before_mlflow_is_imported(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    check = """if True:
        import os, pathlib, sys
        class Spy:
            def find_spec(self, name, path=None, target=None):
                if name == "mlflow":
                    print(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))
        sys.meta_path.insert(0, Spy())
        from reports.tracking import open_experiment
        open_experiment(pathlib.Path(sys.argv[1]), "digits")
    """
    command = [sys.executable, "-c", check, str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["true"]


def test_a_run_is_named_and_has_only_params_that_vary_or_identify(
    experiment: Experiment, row: MakeRow
) -> None:
    run_id = log_run(experiment, row(**NOISE, canaries="c0ffee"), constant={"C"})
    run = experiment.client.get_run(run_id)
    assert run.info.run_name == "sample s0.5 seed2"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "clip": "sample",
        "weighting": "clip",
        "C": "1",
        "sigma": "0.5",
        "mb": "1",
        "q": "0.05",
        "steps": "300",
        "lr": "0.05",
        "delta": "1e-05",
        "seed": "2",
        "model": "mlp",
        "canaries": "c0ffee",
    }


def test_what_is_missing_is_no_param(experiment: Experiment, row: MakeRow) -> None:
    run = experiment.client.get_run(log_run(experiment, row(mb=math.nan)))
    assert not {"C", "mb", "world"} & set(run.data.params)


def test_headline_metrics_have_four_digits(experiment: Experiment, row: MakeRow) -> None:
    run_id = log_run(experiment, row(**NOISE, **CLAIM) | {"acc": 0.9621513})
    assert experiment.client.get_run(run_id).data.metrics == {
        "acc": 0.9622,
        "exposure": 5.05,
        "exp_low": 4.2,
        "exp_high": 5.9,
        "exp_2": 5.86,
        "exp_4": 6.7,
        "exp_8": 8.1,
        "exp_16": 8.29,
        "norm_pct": 99.0,
        "auc": 0.81,
        "eps": 3.142,
        "eps_lb": 0.4,
        "clipfrac": 0.0,
        "ex_per_s": 12350.0,
        "peak_mb": 310.0,
    }


def test_what_the_audit_measured_is_there_under_short_names(
    experiment: Experiment, row: MakeRow
) -> None:
    measured = {"eps_lb_by": "records", "eps_lb_ceiling": 5.78231, "auc_low": 0.7, "auc_high": 0.9}
    run_id = log_run(experiment, row(**measured, coin_p=0.004, before_p=math.nan))
    run = experiment.client.get_run(run_id)
    found = {"eps_ceil": 5.782, "auc_low": 0.7, "auc_high": 0.9, "coin_p": 0.004}
    assert found.items() <= run.data.metrics.items()
    assert max(map(len, run.data.metrics)) <= 10
    assert run.data.tags["dpclip.bound"] == (
        "0.4 from records; a perfect attack could have shown 5.78"
    )
    assert "Lower bound by the audit: 0.4 from records" in run.data.tags["mlflow.note.content"]


def test_an_unresolvable_claim_is_told_first(experiment: Experiment, row: MakeRow) -> None:
    run_id = log_run(experiment, row(**NOISE, **CLAIM | {"verdict": "unresolvable"}))
    tags = experiment.client.get_run(run_id).data.tags
    assert tags["dpclip.verdict"] == "unresolvable"
    assert tags["mlflow.note.content"].startswith("**unresolvable**: epsilon 3.14")
    assert "says nothing about the claim" in tags["mlflow.note.content"]


def test_an_infinite_epsilon_is_a_reason_and_no_metric(
    experiment: Experiment, row: MakeRow
) -> None:
    run = experiment.client.get_run(log_run(experiment, row(guarantee="the minimum is joint")))
    assert "eps" not in run.data.metrics
    assert run.data.tags["dpclip.guarantee"] == "none: the minimum is joint"
    assert run.data.tags["dpclip.verdict"] == "not-claimed"


def test_tags_say_what_is_claimed_and_colour_the_granularity(
    experiment: Experiment, row: MakeRow
) -> None:
    sweep_id = start_sweep(experiment, "sweep", {"unit": "example"})
    facts = {"unit": "example", "accountant": "prv", "sampling": "poisson", "rng": "seeded"}
    run_id = log_run(experiment, row(**NOISE, **CLAIM), sweep_id=sweep_id, facts=facts)
    tags = experiment.client.get_run(run_id).data.tags
    assert tags["dpclip.kind"] == "audit"
    assert tags["dpclip.guarantee"] == "(3.14, 1e-05), example level, PRV"
    assert tags["mlflow.runColor"] == COLORS["sample"]
    assert tags["mlflow.parentRunId"] == sweep_id
    assert {key: tags[f"dpclip.{key}"] for key in facts} == facts
    first = tags["mlflow.note.content"].splitlines()[:3]
    assert first[0].startswith("**consistent**: epsilon 3.14")
    assert first[1].startswith("1x exposure 5.05 bits")
    assert first[2].startswith("accuracy 0.962")


def test_an_unknown_fact_is_refused_before_a_run_is_made(
    experiment: Experiment, row: MakeRow
) -> None:
    with pytest.raises(ValueError, match="fact 'colour' is unknown"):
        log_run(experiment, row(), facts={"colour": "blue"})
    assert experiment.client.search_runs([experiment.id]) == []


def test_long_series_arrive_whole_and_without_infinities(
    experiment: Experiment, row: MakeRow
) -> None:
    loss = [(step, 1 / step) for step in range(1, 2501)]
    epsilon = [(1, math.inf), (2, 0.5), (3, math.nan)]
    run_id = log_run(experiment, row(), series={"train/loss": loss, "privacy/eps": epsilon})
    history = experiment.client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == loss
    history = experiment.client.get_metric_history(run_id, "privacy/eps")
    assert [(point.step, point.value) for point in history] == [(2, 0.5)]


@pytest.mark.parametrize("steps", [[0, 1], [1, 1], [2, 1]])
def test_steps_that_draw_a_zigzag_are_refused_before_a_run_is_made(
    experiment: Experiment, row: MakeRow, steps: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"series 'train/loss' has step .* out of order"):
        log_run(experiment, row(), series={"train/loss": [(step, 1.0) for step in steps]})
    assert experiment.client.search_runs([experiment.id]) == []


def test_a_folder_becomes_the_artifacts(
    experiment: Experiment, row: MakeRow, tmp_path: Path
) -> None:
    (tmp_path / "files" / "audit").mkdir(parents=True)
    (tmp_path / "files" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "files" / "audit" / "canaries.csv").write_text("id\n0\n")
    run_id = log_run(experiment, row(), artifacts=tmp_path / "files")
    client = experiment.client
    assert [file.path for file in client.list_artifacts(run_id)] == ["audit", "config.yaml"]
    assert [f.path for f in client.list_artifacts(run_id, "audit")] == ["audit/canaries.csv"]


def test_the_sweep_has_files_and_tags_and_no_metrics(
    experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("# report")
    sweep_id = start_sweep(experiment, "sweep", {"rng": "seeded"})
    assert experiment.client.get_run(sweep_id).info.status == "RUNNING"
    finish(experiment, sweep_id, note="The answer.", files=[tmp_path / "report.md"])
    run = experiment.client.get_run(sweep_id)
    assert (run.info.status, run.data.metrics, run.data.params) == ("FINISHED", {}, {})
    assert run.data.tags["dpclip.kind"] == "sweep"
    assert run.data.tags["dpclip.rng"] == "seeded"
    assert run.data.tags["mlflow.note.content"] == "The answer."
    found = experiment.client.list_artifacts(sweep_id, "compare")
    assert [file.path for file in found] == ["compare/report.md"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError("bad"), "FAILED")]
)
def test_an_error_does_not_leave_a_run_running(
    experiment: Experiment, error: BaseException, status: str
) -> None:
    sweep_id = start_sweep(experiment, "sweep")
    with pytest.raises(type(error)), ended(experiment, sweep_id):
        raise error
    run = experiment.client.get_run(sweep_id)
    assert run.info.status == status
    assert run.data.tags["dpclip.error"].startswith(type(error).__name__)


def test_a_missing_folder_is_refused_before_a_run_is_made(
    experiment: Experiment, row: MakeRow, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere, which is no folder"):
        log_run(experiment, row(), artifacts=tmp_path / "nowhere")
    assert experiment.client.search_runs([experiment.id]) == []


def test_a_run_that_breaks_while_it_is_written_is_failed(
    experiment: Experiment, row: MakeRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(experiment.client, "log_artifacts", full_disk)
    with pytest.raises(OSError, match="no space left"):
        log_run(experiment, row(), artifacts=tmp_path)
    (run,) = experiment.client.search_runs([experiment.id])
    assert run.info.status == "FAILED"
    assert run.data.tags["dpclip.error"] == "OSError: no space left"


def test_an_exit_is_a_kill(experiment: Experiment) -> None:
    sweep_id = start_sweep(experiment, "sweep")
    fail(experiment, sweep_id, SystemExit(130))
    assert experiment.client.get_run(sweep_id).info.status == "KILLED"


def test_children_are_found_under_their_sweep(experiment: Experiment, sweep: list[Row]) -> None:
    sweep_id = start_sweep(experiment, "sweep")
    for one in sweep[:3]:
        log_run(experiment, one, sweep_id=sweep_id)
    wanted = f"tags.`mlflow.parentRunId` = '{sweep_id}'"
    found = experiment.client.search_runs([experiment.id], filter_string=wanted)
    assert sorted(run.info.run_name for run in found) == ["none seed0", "none seed1", "none seed2"]


def test_requests_stay_within_what_mlflow_accepts() -> None:
    from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_TAG_VAL_LENGTH

    assert CHUNK <= MAX_METRICS_PER_BATCH
    assert TAG_LIMIT <= MAX_TAG_VAL_LENGTH


def test_a_long_guarantee_is_cut_to_what_a_tag_holds(experiment: Experiment, row: MakeRow) -> None:
    run = experiment.client.get_run(log_run(experiment, row(guarantee="x" * 9000)))
    assert len(run.data.tags["dpclip.guarantee"]) == TAG_LIMIT


def test_a_run_took_as_long_as_it_took(experiment: Experiment, row: MakeRow) -> None:
    """However long after it ended it was logged."""
    sweep_id = start_sweep(experiment, "sweep", started=900.0)
    origin = Origin(started=1000.25, ended=1012.5)
    run_id = log_run(experiment, row(), series={"train/loss": [(1, 1.0)]}, origin=origin)
    finish(experiment, sweep_id, ended=2000.0)
    info = experiment.client.get_run(run_id).info
    assert (info.start_time, info.end_time) == (1_000_250, 1_012_500)
    info = experiment.client.get_run(sweep_id).info
    assert (info.start_time, info.end_time) == (900_000, 2_000_000)
    (point,) = experiment.client.get_metric_history(run_id, "train/loss")
    assert point.timestamp == 1_012_500


def test_training_records_are_a_name_and_a_digest(experiment: Experiment, row: MakeRow) -> None:
    origin = Origin(data="digits", digest="0123456789" * 7, facts={"records": 1797})
    run = experiment.client.get_run(log_run(experiment, row(), origin=origin))
    (held,) = run.inputs.dataset_inputs
    assert (held.dataset.name, held.dataset.digest) == ("digits", ("0123456789" * 4)[:36])
    assert (held.dataset.source, held.dataset.profile) == ("{}", '{"records": 1797}')
    assert [(tag.key, tag.value) for tag in held.tags] == [("mlflow.data.context", "training")]
    without = experiment.client.get_run(log_run(experiment, row(seed=1)))
    assert without.inputs.dataset_inputs == []


def test_a_run_is_seen_while_it_is_at_work(experiment: Experiment, row: MakeRow) -> None:
    settings = {key: row(**NOISE)[key] for key in ("task", *NOISE)}
    run_id = start_run(experiment, settings)
    begun = experiment.client.get_run(run_id)
    assert (begun.info.status, begun.info.run_name) == ("RUNNING", "sample C1 s0.5 seed2")
    assert begun.data.tags["mlflow.runColor"] == COLORS["sample"]
    assert "dpclip.verdict" not in begun.data.tags  # nobody knows yet
    assert log_run(experiment, row(**NOISE, **CLAIM), kind="train", run_id=run_id) == run_id
    run = experiment.client.get_run(run_id)
    assert (run.info.status, run.info.start_time) == ("FINISHED", begun.info.start_time)
    assert run.data.tags["dpclip.verdict"] == "consistent"
    assert run.data.metrics["eps"] == 3.142
    assert len(experiment.client.search_runs([experiment.id])) == 1


def test_a_run_that_is_gone_is_not_there(store: Path, experiment: Experiment, row: MakeRow) -> None:
    run_id = log_run(experiment, row())
    assert has_run(experiment, run_id)
    assert not has_run(open_experiment(store, "text"), run_id)
    assert not has_run(experiment, "0" * 32)
    experiment.client.delete_run(run_id)
    assert not has_run(experiment, run_id)


def test_a_server_that_does_not_answer_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match=r"names cannot be used: .*; start it, or"):
        open_experiment(tmp_path, "digits")
