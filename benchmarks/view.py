"""The README's picture of MLflow: the trade-off of a store, seen in a browser without a screen.

`python -m benchmarks.view STORE PICTURE` takes a store of `dpclip audit`. It needs Chromium and
its driver (Debian: chromium, chromium-driver) and selenium.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from reports.tracking import open_experiment
from reports.ui import landing, server_of

T = TypeVar("T")

SIZE = (1600, 1400)
LIMIT = 300_000  # bytes of the picture
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    f"--window-size={SIZE[0]},{SIZE[1]}",
    # It has a mouse: without one, charts keep their buttons in front of their points.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
    "primaryPointerType=4,availablePointerTypes=4",
)
_STARTING = 90.0  # seconds that a server may take


def missing() -> str | None:
    """Returns what a browser without a screen lacks on this machine, None if it has all."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed (make chromium)" if lacking else None


@contextmanager
def served(store: Path) -> Iterator[int]:
    """Yields the port of an MLflow server on the store that answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    port = _free_port()
    command, environment = server_of(store, port)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=quiet, stderr=quiet, start_new_session=True
    ) as server:
        try:
            wait_for(lambda: server.poll() is not None or _answers(port), _STARTING)
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {server.returncode}")
            yield port
        finally:
            stop(server)


@contextmanager
def browser() -> Iterator[WebDriver]:
    """Yields a Chromium without a screen, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends a server and the processes that it has started in its session."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False


def wait_for(get: Callable[[], T], seconds: float = 60.0) -> T:
    """Returns the first result of `get` that is true.

    Raises:
        TimeoutError: none was in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := get()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came within {seconds:g} s")
        time.sleep(0.25)
    return found


def drawn(driver: WebDriver) -> dict[str, int]:
    """Returns the charts on the page: title -> number of points, bars and canvases in it."""
    script = """
        const card = '[data-testid="experiment-view-compare-runs-card"]';
        const cards = document.querySelectorAll(card);
        const marks = '.scatterlayer .point, .barlayer .point, canvas';
        return [...cards].map(c => [c.innerText.trim(), c.querySelectorAll(marks).length]);
    """
    return {str(text).split("\n")[0]: int(n) for text, n in driver.execute_script(script)}


def runs(driver: WebDriver) -> list[str]:
    """Returns the names of the runs that the page lists."""
    script = """
        const links = document.querySelectorAll('.ag-root a[href*="/runs/"]');
        return [...links].map(a => a.innerText.trim());
    """
    return [str(name) for name in driver.execute_script(script)]


def columns(driver: WebDriver) -> list[str]:
    """Returns the headings of the table of runs, from left to right, as far as they are in view."""
    script = """
        const cells = [...document.querySelectorAll('.ag-header-cell')];
        cells.sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x);
        return cells.map(cell => cell.innerText.trim());
    """
    return [str(name) for name in driver.execute_script(script) if name]


def tidy(driver: WebDriver) -> None:
    """Closes what MLflow shows beside the runs: its assistant, and the note on saved views."""
    for name in ("assistant.chat_panel.close", "experiment_page.shared_view.dismiss"):
        where = f'[data-component-id="mlflow.{name}"]'
        with suppress(TimeoutError):  # another version of MLflow may not have it
            wait_for(lambda w=where: driver.find_elements(By.CSS_SELECTOR, w), 5)[0].click()  # type: ignore[misc]


def png(driver: WebDriver) -> bytes:
    """Returns what the browser shows, in 256 colours."""
    shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    held = io.BytesIO()
    shot.quantize(256, dither=Image.Dither.NONE).save(held, "PNG", optimize=True)
    return held.getvalue()


def picture(store: Path, task: str) -> bytes:
    """Returns the trade-off of a store as a person sees it, as PNG.

    Raises:
        RuntimeError: a browser is missing, or the picture is too large.
        TimeoutError: the charts were not drawn in time.
    """
    if (lacking := missing()) is not None:
        raise RuntimeError(lacking)
    experiment = open_experiment(store, task)
    with served(store) as port, browser() as driver:
        driver.get(landing(store, experiment, port))
        tidy(driver)
        wait_for(lambda: len(drawn(driver)) == 3 and all(drawn(driver).values()))
        time.sleep(2)  # the charts move to the room that the assistant has left
        shot = png(driver)
    if len(shot) > LIMIT:
        raise RuntimeError(f"the picture has {len(shot)} bytes, expected {LIMIT} at most")
    return shot


def main(words: Sequence[str]) -> None:
    """Writes the picture of a store."""
    if len(words) != 2:
        sys.exit("expected a store and a picture: python -m benchmarks.view STORE PICTURE")
    store, target = map(Path, words)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture(store, (store / "task").read_text().strip()))


if __name__ == "__main__":
    main(sys.argv[1:])
