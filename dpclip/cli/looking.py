"""The commands compare, ui and doctor: looking at what is there."""

from __future__ import annotations

import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dpclip.cli.errors import Usage, asked
from dpclip.cli.options import Compare, Doctor, Ui
from reports import console, headline, read, remarks, summarize
from reports.tracking import open_experiment
from reports.ui import runs_link, ui_command


def compare(chosen: Compare, _words: str) -> None:
    """Prints one table of the runs of one or several stores."""
    stores = [Path(word.strip()) for word in chosen.stores.split(",")]
    rows = [row for store in stores for row in asked(lambda s=store: read(s))]  # type: ignore[misc]
    frame = summarize(rows)
    print("\n".join([headline(frame), "", console(frame), "", *remarks(rows)]))


def ui(chosen: Ui, _words: str) -> None:
    """Serves the store until it is interrupted."""
    owner = chosen.store / "task"
    if not owner.exists():
        raise Usage(f"{chosen.store} is no store: run dpclip audit --store {chosen.store} first.")
    experiment = open_experiment(chosen.store, owner.read_text().strip().replace("/", "."))
    command = asked(lambda: ui_command(chosen.store, chosen.port))
    print(f"Open {runs_link(experiment.id, f'http://127.0.0.1:{chosen.port}')}", flush=True)
    subprocess.run(command, check=False)


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
