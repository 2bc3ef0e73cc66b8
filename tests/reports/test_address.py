import os

import pytest
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)

from reports.address import brief, without_password


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("http://me:secret@runs:5000/a failed", "http://runs:5000/a failed"),
        ("'https://me:p@ss@runs/'", "'https://runs/'"),
        ("postgresql+psycopg2://me:secret@db/runs", "postgresql+psycopg2://db/runs"),
        ("http://me@a/ and http://you:x@b/", "http://a/ and http://b/"),
        ("http://runs/@home me@home", "http://runs/@home me@home"),
        ("sqlite:////a@b/c.db", "sqlite:////a@b/c.db"),
    ],
)
def test_who_may_enter_is_not_told(words: str, told: str) -> None:
    assert without_password(words) == told


def test_a_server_is_asked_for_a_short_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), brief():
        assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 1
        assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77  # the user's own
        raise ZeroDivisionError
    assert dict(os.environ) == before
