"""What must be the same when a run goes on."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from dpclip.checkpoints.sealed import Unusable
from dpclip.draws import PoissonBatches
from dpclip.privacy_engine import PrivacyEngine


def settings_of(engine: PrivacyEngine) -> dict[str, Any]:
    """Returns the settings of an engine that decide what a run computes and may claim."""
    inner, batches = engine._private, engine._batches
    return {
        "accountant": engine._ledger.mechanism,
        "noise_multiplier": inner.mechanism.noise_multiplier,
        "noise": inner.mechanism._noise.label,
        "grouping": inner.yielded.grouping.label,
        "weighting": inner.weighting.label,
        "pacing": None if inner.pacer is None else inner.pacer.rule.label,
        "loss_reduction": "mean" if inner.mean else "sum",
        "sampling rate": batches.rate if isinstance(batches, PoissonBatches) else None,
        "records": len(batches._units) if isinstance(batches, PoissonBatches) else None,
        "batches of an epoch": len(batches),
        "randomness": "secure" if engine._streams_made.noise.secure else "seeded",
        "ranks": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
    }


def check_settings(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Raises ValueError, naming each, if settings differ.

    Args:
        found: those of a checkpoint.
        wanted: those of the engine that is to go on with it.
        where: the checkpoint.
    """
    names = [*wanted, *(name for name in found if name not in wanted)]
    other = [
        f"{name} {found.get(name)!r} (now {wanted.get(name)!r})"
        for name in names
        if found.get(name) != wanted.get(name)
    ]
    if other:
        raise ValueError(
            f"{where} was written with {', '.join(other)}. Build the engine as it was built then, "
            "or name another folder to start anew."
        )


def layout_of(engine: PrivacyEngine, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Returns what the states of engine, model and optimizer are laid out by."""
    names = {p: name for name, p in module.named_parameters()}
    return {
        "engine": sorted(engine.state_dict()),
        "optimizer": type(optimizer).__name__,
        "parameters": [[names.get(p, "?") for p in g["params"]] for g in optimizer.param_groups],
        "trained": [name for p, name in names.items() if p.requires_grad],
    }


def check_layout(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises Unusable, naming the first difference, if states do not fit."""
    for name, mine in wanted.items():
        if found[name] != mine:
            raise Unusable(
                f"it is of another model, optimizer or version: {name} {_short(found[name])}, "
                f"here {_short(mine)}"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else f"{text[:200]}..."
