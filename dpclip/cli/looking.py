"""The commands ui and doctor: looking at what is there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dpclip.cli.errors import Usage, asked
from dpclip.cli.options import Doctor, Ui
from reports.tracking import open_experiment
from reports.ui import runs_link, ui_command


def ui(chosen: Ui, _words: str) -> None:
    """Serves the store until it is interrupted, which is how it ends well.

    Raises:
        Usage: no store, or no port.
        RuntimeError: the server ended by itself.
    """
    if not 0 < chosen.port < 65536:
        raise Usage(f"--port {chosen.port}: expected 1 to 65535.")
    owner = chosen.store / "task"
    if not owner.exists():
        raise Usage(f"{chosen.store} is no store: run dpclip audit --store {chosen.store} first.")
    command = asked(lambda: ui_command(chosen.store, chosen.port))
    experiment = asked(lambda: open_experiment(chosen.store, owner.read_text().strip()))
    print(f"Open {runs_link(experiment.id, f'http://127.0.0.1:{chosen.port}')}", flush=True)
    with suppress(KeyboardInterrupt):
        _serve(command)


def _serve(command: Sequence[str]) -> None:
    # The server starts processes of its own; in a session of theirs, all are stopped together.
    with subprocess.Popen(command, start_new_session=True) as server:
        try:
            code = server.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
    raise RuntimeError(f"The server ended with exit code {code}.")


def doctor(_chosen: Doctor, _words: str) -> None:
    """Prints versions, and whether the four packages are the ones that were installed together."""
    here = Path(import_module("dpclip").__file__ or "").parent.parent
    wrong = []
    for name in ("canaries", "audits", "reports"):
        found = Path(import_module(name).__file__ or "").parent.parent
        if found != here:
            wrong.append(f"{name} is {found / name}, not dpclip's: another package overwrote it")
    for package in ("dpclip", "torch", "opacus", "mlflow", "torchaudio"):
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package} is not installed")
    if wrong:
        raise RuntimeError("; ".join(wrong))
    print("The four packages belong together.")
