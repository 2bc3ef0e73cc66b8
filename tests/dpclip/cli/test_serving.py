import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from dpclip.cli.serving import has_screen, serve, show


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    return found


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def screen(name: str) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(variable, raising=False)
        if name:
            monkeypatch.setenv(name, ":0")

    return screen


@pytest.mark.parametrize(
    ("name", "shows"), [("", False), ("DISPLAY", True), ("WAYLAND_DISPLAY", True)]
)
def test_a_browser_opens_where_there_is_a_screen(
    opened: list[str], screen: Callable[[str], None], name: str, shows: bool
) -> None:
    screen(name)
    assert has_screen() is shows
    show("http://127.0.0.1/#/x")
    assert opened == ["http://127.0.0.1/#/x"] * shows


@pytest.mark.parametrize("name", ["", "DISPLAY"])
def test_the_page_opens_when_the_server_answers(
    opened: list[str],
    screen: Callable[[str], None],
    free_port: Callable[[], int],
    tmp_path: Path,
    name: str,
) -> None:
    """A server that takes half a second to come up, and ends after one more."""
    screen(name)
    port = free_port()
    code = (
        "import sys, threading, time; from http.server import *; time.sleep(.5); "
        f"s = HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler); "
        "threading.Timer(1.0, s.shutdown).start(); s.serve_forever(); sys.exit(7)"
    )
    link = f"http://127.0.0.1:{port}/#/experiments/1"
    with pytest.raises(RuntimeError, match="ended with exit code 7"):
        code = f"import os; os.chdir(os.environ['FOLDER']); {code}"
        serve([sys.executable, "-c", code], {"FOLDER": str(tmp_path)}, link)
    assert opened == ([link] if name else [])


def test_a_server_that_never_answers_opens_nothing(
    opened: list[str], screen: Callable[[str], None], free_port: Callable[[], int]
) -> None:
    screen("DISPLAY")
    with pytest.raises(RuntimeError, match="exit code 3"):
        serve([sys.executable, "-c", "raise SystemExit(3)"], {}, f"http://127.0.0.1:{free_port()}/")
    assert opened == []


def test_an_interruption_stops_the_server(
    screen: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen("")
    started: list[subprocess.Popen[bytes]] = []
    wait = subprocess.Popen.wait

    def interrupted(server: subprocess.Popen[bytes], *words: float) -> int:
        if server not in started:
            started.append(server)
            raise KeyboardInterrupt
        return wait(server, *words)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serve([sys.executable, "-c", "import time; time.sleep(60)"], {}, "http://127.0.0.1/")
    assert started[0].returncode == -signal.SIGTERM
