"""Work for the workers of a sweep; a module of its own, which they can import."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def double(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": {"value": 2 * config["number"], "process": os.getpid()}}


def odd_fails(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fails at once for odd numbers; the others take a moment."""
    if config["number"] % 2:
        raise ValueError(f"{config['number']} is odd")
    time.sleep(1.0)
    return double(config)


def threads(_config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {"row": {"threads": torch.get_num_threads()}}


def dies(_config: Mapping[str, Any]) -> dict[str, Any]:
    os._exit(3)


def waits(config: Mapping[str, Any]) -> dict[str, Any]:
    (Path(config["folder"]) / str(os.getpid())).touch()
    time.sleep(60)
    return {"row": {}}
