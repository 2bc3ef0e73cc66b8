"""Addresses of tracking servers: without passwords, and asked for a short while only."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# While a model trains, a server that is away must not hold it up: MLflow tries for minutes.
_BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_USER = re.compile(r"(://)[^/\s]*@")


def without_password(words: str) -> str:
    """Returns the words with `scheme://user:password@host` as `scheme://host`.

    Addresses get into reports, messages and links, which are shown to others.
    """
    return _USER.sub(r"\1", words)


@contextmanager
def brief() -> Iterator[None]:
    """Makes MLflow ask a server twice and wait ten seconds, unless the user has set how often."""
    mine = {name: value for name, value in _BRIEF.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)
