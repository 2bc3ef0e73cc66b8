import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import dpclip.cli.looking
import dpclip.cli.serving
from reports.tracking import open_experiment, start_sweep
from reports.ui import Server

Call = Callable[..., Any]


def test_ui_on_a_folder_that_is_no_store_is_refused(call: Call, tmp_path: Path) -> None:
    ended = call("ui", "--store", str(tmp_path))
    assert ended.code == 2
    assert "is no store: run dpclip audit" in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_ui_on_a_port_that_is_none_is_refused(call: Call, port: str) -> None:
    ended = call("ui", "--port", port)
    assert ended.code == 2
    assert "expected 1 to 65535" in ended.err


def test_a_server_that_ends_by_itself_is_a_failure(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "task").write_text("tiny\n")
    ends = Server([sys.executable, "-c", "raise SystemExit(7)"], {})
    monkeypatch.setattr(dpclip.cli.looking, "server_of", lambda _store, _port: ends)
    monkeypatch.setattr(dpclip.cli.serving, "has_screen", lambda: False)
    ended = call("ui", "--store", str(store))
    assert ended.code == 1
    assert "exit code 7" in ended.err


def test_doctor_finds_this_installation_sound(call: Call) -> None:
    ended = call("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert "torch " in ended.out
    assert "belong together" in ended.out


def test_doctor_tells_of_a_package_that_is_another(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "audits")
    monkeypatch.syspath_prepend(tmp_path)
    ended = call("doctor")
    assert ended.code == 1
    assert f"audits is {tmp_path}/audits, not dpclip's" in ended.err


def test_doctor_tells_of_runs_that_never_ended(call: Call, store: Path) -> None:
    ended = call("doctor", "--store", str(store))
    assert "Runs that have not ended: none." in ended.out
    experiment = open_experiment(store, "tiny")
    run_id = start_sweep(experiment, "sweep", started=time.time() - 7300)
    ended = call("doctor", "--store", str(store))
    assert (ended.code, ended.err) == (0, "")
    assert "Runs that have not ended: 1." in ended.out
    assert f"dpclip-tiny: sweep 'sweep' ({run_id}) began 2 hours ago" in ended.out
    where = shlex.quote(f"sqlite:///{store}/mlflow.db")
    assert f"killed: MLFLOW_TRACKING_URI={where} mlflow runs delete --run-id ID" in ended.out


def test_doctor_on_a_server_that_does_not_answer(
    call: Call, store: Path, free_port: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    ended = call("doctor", "--store", str(store))
    assert ended.code == 2
    assert "MLflow cannot read the runs" in ended.err
    assert "secret" not in ended.err + ended.out


@pytest.mark.parametrize(
    "words", [("doctor", "--store"), ("train", "--task", "own_tasks:tiny", "--store")]
)
def test_an_address_that_means_nothing_costs_one_sentence(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://me:secret@x")
    ended = call(*words, str(store))
    assert ended.code == 2
    assert "MLFLOW_TRACKING_URI is 'foo://x', which MLflow cannot use" in ended.err
    assert "secret" not in ended.err


def test_doctor_on_a_folder_without_runs_is_refused(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ended = call("doctor", "--store", "missing")
    assert ended.code == 2
    assert "missing has no mlflow.db" in ended.err
    assert not list(tmp_path.iterdir())


def test_ui_on_a_tracking_server_shows_its_page_and_serves_nothing(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "task").write_text("tiny\n")
    experiment = open_experiment(store, "tiny")
    monkeypatch.setattr(dpclip.cli.looking, "open_experiment", lambda *_: experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example:5000")
    shown: list[str] = []
    monkeypatch.setattr(dpclip.cli.looking, "show", shown.append)
    ended = call("ui", "--store", str(store))
    assert (ended.code, ended.err) == (0, "")
    assert shown == [ended.out.split()[1]]
    assert shown[0].startswith(f"http://runs.example:5000/#/experiments/{experiment.id}/runs?")


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False


def of_store(store: Path) -> list[str]:
    """The command lines of all processes that serve the store, or were told of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (path.parent / "environ").read_bytes().decode(errors="replace")
        except OSError:  # it has ended since
            continue
        if str(store) in words + environment:
            found.append(words)
    return found


@pytest.mark.ui
@pytest.mark.slow
@pytest.mark.parametrize(("ends", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_ui_serves_until_it_is_stopped_and_leaves_nothing(
    store: Path, free_port: Call, ends: signal.Signals, code: int
) -> None:
    (store / "task").write_text("tiny\n")
    port = free_port()
    command = "import sys; from dpclip.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", command, "ui", "--store", str(store), "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 90
            while not answers(port) and time.monotonic() < deadline:
                assert server.poll() is None
                time.sleep(0.5)
            assert answers(port)
            assert len(of_store(store)) >= 2
            os.kill(server.pid, ends)
            out, _ = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == code
    assert f"Open http://127.0.0.1:{port}/#/experiments/".encode() in out
    deadline = time.monotonic() + 10
    while of_store(store) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert of_store(store) == []
    assert not answers(port)
