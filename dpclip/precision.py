"""Autocast, which group gradients must not see: their norms are what a claim stands on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which products keep their precision; nothing where they do anyway."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast_now(device: torch.device) -> torch.autocast:
    """Returns a context in which autocast is as it is now."""
    kind = device.type
    return torch.autocast(
        kind,
        torch.get_autocast_dtype(kind),
        torch.is_autocast_enabled(kind),
        torch.is_autocast_cache_enabled(),
    )
