"""dpclip: differential privacy and memorization audits for PyTorch.

Per-sample, per-micro-batch and per-core gradient clipping on one engine. Names are loaded when
they are first used, so that `dpclip --help` imports neither torch nor mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpclip.budgets import budget, step_budget
    from dpclip.checkpoints import Checkpoints
    from dpclip.clustering import clusters
    from dpclip.grad_queue import dynamic, scarcity
    from dpclip.grouping import by_key, micro_batches, per_core, per_sample
    from dpclip.noise import gaussian
    from dpclip.pacing import by_angle
    from dpclip.privacy_engine import PrivacyEngine
    from dpclip.promises import check
    from dpclip.weighting import (
        chain,
        clip,
        clip_to_min,
        normalize,
        per_layer,
        quantile,
        uniform,
    )

_HOME = {
    "Checkpoints": "checkpoints",
    "PrivacyEngine": "privacy_engine",
    "budget": "budgets",
    "by_angle": "pacing",
    "by_key": "grouping",
    "chain": "weighting",
    "check": "promises",
    "clip": "weighting",
    "clip_to_min": "weighting",
    "clusters": "clustering",
    "dynamic": "grad_queue",
    "gaussian": "noise",
    "micro_batches": "grouping",
    "normalize": "weighting",
    "per_core": "grouping",
    "per_layer": "weighting",
    "per_sample": "grouping",
    "quantile": "weighting",
    "scarcity": "grad_queue",
    "step_budget": "budgets",
    "uniform": "weighting",
}

__all__ = [
    "Checkpoints",
    "PrivacyEngine",
    "budget",
    "by_angle",
    "by_key",
    "chain",
    "check",
    "clip",
    "clip_to_min",
    "clusters",
    "dynamic",
    "gaussian",
    "micro_batches",
    "normalize",
    "per_core",
    "per_layer",
    "per_sample",
    "quantile",
    "scarcity",
    "step_budget",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dpclip' has no attribute {name!r}")
    return getattr(import_module(f"dpclip.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
