"""The commands ui and doctor: looking at what is there."""

from __future__ import annotations

import shlex
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dpclip.cli.errors import Usage, asked
from dpclip.cli.options import Doctor, Ui
from dpclip.cli.serving import serve, show
from reports.address import without_password
from reports.tracking import open_experiment, tracking_uri
from reports.ui import landing, page_of, server_of
from reports.unfinished import unfinished


def ui(chosen: Ui, _words: str) -> None:
    """Serves the store until it is interrupted, which is how it ends well.

    Runs on a tracking server of the user's own are only shown: it serves itself.

    Raises:
        Usage: no store, or no port.
        RuntimeError: the server ended by itself.
    """
    if not 0 < chosen.port < 65536:
        raise Usage(f"--port {chosen.port}: expected 1 to 65535.")
    owner = chosen.store / "task"
    if not owner.exists():
        raise Usage(f"{chosen.store} is no store: run dpclip audit --store {chosen.store} first.")
    experiment = asked(lambda: open_experiment(chosen.store, owner.read_text().strip()))
    link = landing(chosen.store, experiment, chosen.port)
    if page_of(chosen.store) is not None:
        print(f"Open {link}")
        show(link)
        return
    server = asked(lambda: server_of(chosen.store, chosen.port))
    print(f"Open {link}", flush=True)
    with suppress(KeyboardInterrupt):
        serve(*server, link)


def doctor(chosen: Doctor, _words: str) -> None:
    """Prints versions, whether the four packages belong together, and runs that never ended.

    Raises:
        Usage: there are no runs in the store.
        RuntimeError: another package overwrote one of the four.
    """
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
    if chosen.store is not None:
        _tell_unfinished(chosen.store)


def _tell_unfinished(store: Path) -> None:
    found = asked(lambda: unfinished(store))
    print("\n".join([f"Runs that have not ended: {len(found) or 'none'}.", *map(str, found)]))
    if found:
        uri = shlex.quote(without_password(tracking_uri(store)))
        print(
            "One that nothing is training was killed: "
            f"MLFLOW_TRACKING_URI={uri} mlflow runs delete --run-id ID removes it."
        )
