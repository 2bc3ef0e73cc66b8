import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from safetensors.torch import load_model

import dpclip.cli.train
import reports.buffer
from dpclip.cli.cells import work
from dpclip.cli.options import Train
from dpclip.cli.tasks import task_of
from reports.tracking import open_experiment
from reports.views import save_views

Call = Callable[..., Any]
WORDS = ("train", "--task", "own_tasks:tiny")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where the runs that really happened saved their weights."""
    ran: list[Path] = []

    def count(config: dict[str, Any], weights: Path, observe: Any) -> Any:
        ran.append(weights)
        return work(config, weights, observe=observe)

    monkeypatch.setattr(dpclip.cli.train, "work", count)
    return ran


def runs(store: Path) -> list[Any]:
    experiment = open_experiment(store, "tiny")
    return list(experiment.client.search_runs([experiment.id]))


def logged(store: Path) -> int:
    return len(runs(store))


def test_weights_load_back_to_the_same_accuracy(
    call: Call, store: Path, counted: list[Path]
) -> None:
    ended = call(*WORDS, "--noise", "0.5", "--store", str(store))
    assert (ended.code, ended.err) == (0, "")
    (weights,) = counted
    assert weights.parent == store
    task = task_of({"task": "own_tasks:tiny", "families": None, "references": 10}
                   | {"batch_size": None, "epochs": None})  # fmt: skip
    model = task.model(1)
    load_model(model, weights)
    assert f"acc {task.evaluate(model, task.test):.4g}, epsilon " in ended.out
    assert str(weights) in ended.out
    assert "PRV accounting, Poisson sampling" in ended.out


def test_secure_training_says_so(call: Call, store: Path, counted: list[Path]) -> None:
    """Noise that a seed would repeat is not what a given-away model needs."""
    words = (*WORDS, "--noise", "0.5", "--secure", "true")
    ended = [call(*words, "--store", str(store / name)) for name in ("a", "b")]
    assert [e.code for e in ended] == [0, 0]
    assert all("secure randomness" in e.out for e in ended)
    first, second = (path.read_bytes() for path in counted)
    assert first != second
    assert "from a seed" in call(*WORDS, "--noise", "0.5", "--store", str(store / "c")).out


def test_the_same_training_happens_once(call: Call, store: Path, counted: list[Path]) -> None:
    first = call(*WORDS, "--store", str(store))
    again = call(*WORDS, "--store", str(store))
    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out
    assert (len(counted), logged(store)) == (1, 1)
    assert call(*WORDS, "--store", str(store), "--seed", "1").code == 0
    assert (len(counted), logged(store)) == (2, 2)


def test_lost_weights_are_made_again(call: Call, store: Path, counted: list[Path]) -> None:
    call(*WORDS, "--store", str(store))
    counted[0].unlink()
    assert call(*WORDS, "--store", str(store)).code == 0
    assert counted[0].exists()
    assert (len(counted), logged(store)) == (2, 1)


def test_a_store_may_be_moved(call: Call, store: Path, tmp_path: Path, counted: list[Path]) -> None:
    call(*WORDS, "--store", str(store))
    store.rename(tmp_path / "moved")
    assert call(*WORDS, "--store", "moved").code == 0
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--grouping", "none,sample"), "train runs one arm"),
        (("--grouping", "bogus"), "Unknown grouping"),
        (("--noise", "-1"), "noise -1"),
        (("--grouping", "none", "--noise", "1"), "No combination"),
        (("--weighting", "min", "--noise", "1"), "No combination"),
        (("--epochs", "0"), "--epochs 0"),
        (("--delta", "2"), "--delta 2"),
        (("--accountant", "gdp"), "gdp"),
        (("--seed", "-1"), "--seed -1"),
        (("--grouping", "core:8", "--batch_size", "4"), "needs batches of 8"),
        (("--task", "own_tasks:forgetful"), "not in the optimizer"),
        (("--task", "own_tasks:normalized"), "BatchNorm1d"),
        (("--task", "own_tasks:averaged"), "one loss for each"),
    ],
)
def test_what_cannot_be_trained_costs_one_sentence_and_no_store(
    call: Call, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    ended = call(*WORDS, *words, "--store", "new")
    assert ended.code == 2
    assert told in ended.err
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_training_that_diverges_is_a_failure(call: Call, store: Path) -> None:
    ended = call(*WORDS, "--grouping", "none", "--lr", "1e38", "--store", str(store))
    assert ended.code == 1
    assert "Use a smaller one" in ended.err
    (run,) = runs(store)
    assert (run.info.status, run.info.run_name) == ("FAILED", "none seed0")


def test_a_run_is_seen_while_it_trains(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def look(config: dict[str, Any], weights: Path, observe: Any) -> Any:
        def observed(name: str, value: float, step: int) -> None:
            observe(name, value, step)
            seen.append((runs(store)[0].info.status, step))

        return work(config, weights, observe=observed)

    monkeypatch.setattr(dpclip.cli.train, "work", look)
    assert call(*WORDS, "--store", str(store)).code == 0
    (run,) = runs(store)
    assert {status for status, _ in seen} == {"RUNNING"}
    assert (run.info.status, run.data.tags["dpclip.kind"]) == ("FINISHED", "train")
    client = open_experiment(store, "tiny").client
    loss = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in loss] == [step for _, step in seen]
    assert client.get_metric_history(run.info.run_id, "clip/fraction")
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "tiny"


def test_a_server_that_is_away_for_a_while_does_not_end_a_training(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send = MlflowClient.log_batch
    refused: list[str] = []

    def away(client: MlflowClient, run_id: str, **more: Any) -> Any:
        if not refused:
            refused.append(run_id)
            raise MlflowException("no answer")
        return send(client, run_id, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", away)
    monkeypatch.setattr(reports.buffer.Buffer.__init__, "__defaults__", (1, 2.0, time.monotonic))
    ended = call(*WORDS, "--store", str(store), "--epochs", "4")
    assert (ended.code, len(refused)) == (0, 1)
    assert caplog.text.count("which is tried again later: no answer") == 1
    (run,) = runs(store)
    client = open_experiment(store, "tiny").client
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
    assert run.info.status == "FINISHED"


def test_a_server_that_stays_away_costs_no_training(
    call: Call, store: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        patch.setattr(MlflowClient, "set_tag", away)
        patch.setattr(MlflowClient, "set_terminated", away)
        ended = call(*WORDS, "--store", str(store))
    assert ended.code == 1
    assert "MLflow did not take the runs: no answer. All results are kept" in ended.err
    assert "acc " in ended.out  # what was found is told all the same
    assert [run.info.status for run in runs(store)] == ["RUNNING"]
    assert call(*WORDS, "--store", str(store)).code == 0
    assert len(counted) == 1
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert list(json.loads((store / "logged.json").read_text()).values()) == [run.info.run_id]


def test_a_training_whose_logging_broke_off_is_finished_without_a_point_twice(
    call: Call, store: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", away)
        assert call(*WORDS, "--store", str(store)).code == 1
    (run,) = runs(store)
    assert (run.info.status, "dpclip.error" in run.data.tags) == ("FAILED", True)
    assert call(*WORDS, "--store", str(store)).code == 0
    (run,) = runs(store)
    assert (run.info.status, "dpclip.error" in run.data.tags) == ("FINISHED", False)
    client = open_experiment(store, "tiny").client
    for name in ("train/loss", "clip/fraction", "acc"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert steps == sorted(set(steps)), name
        assert steps
    assert len(counted) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_ends_while_the_server_is_away_tells_its_own_reason(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    def work(_config: object, _weights: object, observe: Any) -> None:
        observe("train/loss", 1.0, 1)
        for name in ("log_batch", "set_tag", "set_terminated"):
            monkeypatch.setattr(MlflowClient, name, away)
        raise error("it ended")

    monkeypatch.setattr(dpclip.cli.train, "work", work)
    ended = call(*WORDS, "--store", str(store))
    assert ended.code == (130 if error is KeyboardInterrupt else 1)
    assert ("interrupted" if error is KeyboardInterrupt else "dpclip: it ended") in ended.err
    assert "are kept in" not in ended.err  # there is nothing yet


def test_a_server_that_is_away_when_training_begins_costs_only_the_look(
    call: Call, store: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", away)
        ended = call(*WORDS, "--store", str(store))
    assert (ended.code, len(counted)) == (1, 1)
    assert "All results are kept" in ended.err
    assert call(*WORDS, "--store", str(store)).code == 0
    assert (len(counted), logged(store)) == (1, 1)


def test_the_link_leads_to_a_page_that_shows_trainings(call: Call, store: Path) -> None:
    save_views(open_experiment(store, "tiny"), [{"clip": "none", "exposure": 1.0}])
    out = call(*WORDS, "--store", str(store)).out
    assert "compareRunsMode=TABLE" in out
    assert "viewStateShareKey" not in out  # views show audits alone


@pytest.mark.parametrize(("words", "rng"), [((), "seeded"), (("--secure", "true"), "secure")])
def test_the_run_tells_where_its_noise_came_from(
    call: Call, store: Path, words: tuple[str, ...], rng: str
) -> None:
    assert call(*WORDS, "--noise", "0.5", *words, "--store", str(store)).code == 0
    assert runs(store)[0].data.tags["dpclip.rng"] == rng


def test_defaults_are_one_arm() -> None:
    assert (Train().grouping, Train().weighting, Train().noise) == ("sample", "clip:1.0", 0.0)
