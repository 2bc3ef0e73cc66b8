"""A server of runs until it is stopped, and a browser on it where there is a screen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

_PATIENCE = 0.5  # seconds between two looks at whether the server answers


def serve(command: Sequence[str], environment: Mapping[str, str], link: str) -> None:
    """Runs the server and opens the link as soon as it answers.

    Args:
        command: of the server.
        environment: of the server, beside this process' own.
        link: address of a page on it.

    Raises:
        RuntimeError: the server ended by itself.
    """
    # The server starts processes of its own; in a session of theirs, all are stopped together.
    whole = os.environ | dict(environment)
    with subprocess.Popen(command, env=whole, start_new_session=True) as server:
        try:
            if has_screen():
                _open_when_up(server, link)
            code = server.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
    raise RuntimeError(f"The server ended with exit code {code}.")


def show(link: str) -> None:
    """Opens the link in the user's browser where there is a screen to see it on."""
    if has_screen():
        webbrowser.open(link)


def has_screen() -> bool:
    """Whether a browser could show something; elsewhere one in text would take the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_when_up(server: subprocess.Popen[bytes], link: str) -> None:
    while server.poll() is None:
        if _answers(link):
            webbrowser.open(link)
            return
        with suppress(subprocess.TimeoutExpired):
            server.wait(_PATIENCE)


def _answers(link: str) -> bool:
    try:
        with urlopen(link, timeout=5) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False
