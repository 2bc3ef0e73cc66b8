"""Audits: scores -> exposure and lower bounds on epsilon; tasks, trials and sweeps.

`audits.exposure` and `audits.bounds` are the estimators; they are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audits import bounds, enumeration, exposure, extraction, membership, shadow

__all__ = ["bounds", "enumeration", "exposure", "extraction", "membership", "shadow"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'audits' has no attribute {name!r}")
    return import_module(f"audits.{name}")


def __dir__() -> list[str]:
    return __all__
