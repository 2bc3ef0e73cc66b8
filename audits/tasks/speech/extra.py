"""The libraries of the extra `speech`, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def needed(name: str) -> ModuleType:
    """Returns a module of the extra `speech`.

    Args:
        name: dotted name of the module.

    Raises:
        ModuleNotFoundError: it is not installed, or cannot be loaded beside this torch; the message
            says how to install it.
    """
    try:
        return import_module(name)
    except (ModuleNotFoundError, OSError) as error:
        # A library built for another torch fails while it is loaded, which is an OSError.
        raise ModuleNotFoundError(
            f"Task speech needs {name}, which cannot be imported ({error}). Install it: "
            "pip install 'dpclip[speech]' (torchaudio of the release that fits your torch, such as "
            "torch==2.11.0 with torchaudio==2.11.0)",
            name=name,
        ) from error
