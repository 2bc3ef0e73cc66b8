"""What holds for all tests."""

import shutil
import signal
import threading
from pathlib import Path

import pytest

from reports.tracking import open_experiment


def pytest_configure() -> None:
    """Lets Ctrl-C reach the tests of Ctrl-C where a script runs them in the background.

    A shell starts background jobs with the signal ignored, which processes inherit; a handler is
    not inherited.
    """
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take two seconds to make: every store copies it."""
    store = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_experiment(store, "template")
    return store / "mlflow.db"


@pytest.fixture
def own_store(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a database of its own, whatever the machine's MLFLOW_TRACKING_URI says."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "a store"
    store.mkdir()
    shutil.copy(migrated, store / "mlflow.db")
    return store
