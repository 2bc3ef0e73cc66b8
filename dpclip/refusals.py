"""What cannot be trained privately, each with a sentence that names the way out."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from dpclip.limits import Limits
from dpclip.types import Grouping, Pacing, Weighting


def check_model(module: Any, optimizer: Any) -> None:
    """Raises unless the model can be hooked and the optimizer updates exactly its parameters.

    Raises:
        TypeError: not a module or not one optimizer.
        ValueError: layers that cannot be made private, distributed wrappers, eval mode, parameters
            that do not match.
    """
    if isinstance(optimizer, (list, tuple)):
        raise TypeError(
            f"Got {len(optimizer)} optimizers; one model is trained by one. Use one optimizer with "
            "several parameter groups."
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: expected torch.optim.Optimizer."
        )
    if isinstance(optimizer, LBFGS):
        raise TypeError("LBFGS evaluates a batch many times per step. Use a first-order optimizer.")
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}: expected torch.nn.Module.")
    kind = type(module).__name__
    if kind in ("FullyShardedDataParallel", "DataParallel"):
        raise ValueError(
            f"{kind} is not supported yet. Use DistributedDataParallel, or the module inside it "
            "(model.module)."
        )
    if any(type(m).__name__.startswith("FSDP") for m in module.modules()):
        raise ValueError("FSDP is not supported yet: parameters must be whole on this process.")
    if not module.training:
        raise ValueError("The model is in eval mode. Call model.train() before make_private.")
    _check_layers(module)
    _check_parameters(module, optimizer)


def _check_layers(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{name or 'the model'} is a {type(layer).__name__}, which mixes the samples of a "
                "batch, so no sample has a gradient of its own. Use GroupNorm, e.g. "
                "model = opacus.validators.ModuleValidator.fix(model)."
            )
        if getattr(layer, "max_norm", None) is not None:
            raise ValueError(
                f"{name or 'the model'} is a {type(layer).__name__} with max_norm, which rescales "
                "the rows of the tokens it sees during the forward, outside of clipping and noise. "
                "Build it with max_norm=None."
            )
        if nn.utils.parametrize.is_parametrized(layer):
            raise ValueError(
                f"{name or 'the model'} is parametrized (weight_norm, spectral_norm, ...): its "
                "weight is computed once for all samples, so no layer sees a gradient per sample. "
                "Remove it with torch.nn.utils.parametrize.remove_parametrizations."
            )
        if getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"{name or 'the model'} is a {type(layer).__name__} with running statistics of the "
                "data, which no noise protects. Build it with track_running_stats=False."
            )


def _check_parameters(module: nn.Module, optimizer: Optimizer) -> None:
    mine = {p: n for n, p in module.named_parameters() if p.requires_grad}
    if not mine:
        raise ValueError("The model has no trainable parameter (requires_grad is False for all).")
    theirs = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    missing = [n for p, n in mine.items() if p not in theirs]
    if missing:
        raise ValueError(
            f"{len(missing)} trainable parameters are not in the optimizer: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Add them, or freeze "
            "them with requires_grad_(False)."
        )
    if theirs - set(mine):
        raise ValueError(
            f"The optimizer holds {len(theirs - set(mine))} trainable parameters that are not in "
            "the model, which would be updated without clipping or noise. Build it from "
            "model.parameters()."
        )
    odd = [n for p, n in mine.items() if p.is_complex() or p.is_sparse]
    if odd:
        raise ValueError(f"Complex or sparse parameters are not supported: {', '.join(odd)}.")


def check_numbers(
    noise_multiplier: float,
    max_grad_norm: float | None,
    weighting: Weighting | None,
    loss_reduction: str,
    max_physical_batch: int | None,
) -> None:
    """Raises ValueError unless the numbers of make_private make sense together."""
    check_sigma(noise_multiplier)
    if (weighting is None) == (max_grad_norm is None):
        found = "neither was" if weighting is None else "both were"
        raise ValueError(
            f"Give max_grad_norm (for clip(max_grad_norm)) or weighting; {found} given."
        )
    if loss_reduction not in ("mean", "sum"):
        raise ValueError(f'loss_reduction={loss_reduction!r}: expected "mean" or "sum".')
    if max_physical_batch is not None and max_physical_batch < 1:
        raise ValueError(f"max_physical_batch={max_physical_batch}: expected at least 1.")


def check_sigma(noise_multiplier: float) -> None:
    """Raises ValueError unless this is a noise multiplier."""
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise ValueError(f"noise_multiplier={noise_multiplier}: expected a number >= 0.")


def check_noise(noise_multiplier: float, weighting: Weighting, bound: float | None) -> None:
    """Raises ValueError where noise would have nothing to be scaled by."""
    if noise_multiplier > 0 and bound is None:
        raise ValueError(
            f"noise_multiplier={noise_multiplier} with {weighting.label}: no group is bounded by "
            "itself, so no amount of noise means anything. Use clip(C), or noise_multiplier=0."
        )


def check_rows(grouping: Grouping, weighting: Weighting) -> None:
    """Raises ValueError for a rule that makes the update itself, over ranks that are groups."""
    if grouping.ranks and weighting.needs == "rows":
        raise ValueError(
            f"{grouping.label} with {weighting.label}: the rule needs the gradients of all groups, "
            "and a rank has its own only. Use per_core(n) for n virtual cores in one process."
        )


def check_features(grouping: Grouping, *, several: bool, limits: Limits, loop: bool) -> None:
    """Raises ValueError where groups are formed of features that are never there all at once.

    Args:
        grouping: given.
        several: whether there are several ranks.
        limits: of a physical batch.
        loop: whether the model runs for each group.
    """
    if grouping.features is None:
        return
    whole = f"{grouping.label} forms its groups from the features of a whole batch"
    if several:
        raise ValueError(f"{whole}, and a rank sees a share of it. Train in one process.")
    sizes = {"max_physical_batch": limits.rows, "max_physical_size": limits.size}
    for name, value in sizes.items():
        if value is not None:
            raise ValueError(
                f"{whole}, and {name}={value} cuts it. Leave {name} out, or use smaller logical "
                "batches."
            )
    if loop:
        raise ValueError(
            f"{whole}, and loop=True runs the model for each group by itself. Leave loop out."
        )


def check_pacing(pacing: Pacing | None, *, several: bool) -> None:
    """Raises ValueError for paced updates over several ranks."""
    if pacing is not None and several:
        raise ValueError(
            f"{pacing.label} over several ranks is not supported yet. Train in one process."
        )


def warn_by_position(grouping: Grouping) -> str:
    """Returns the one line that is printed for noise on groups that support no epsilon."""
    if grouping.features is not None:
        return (
            f"{grouping.label} with noise supports no epsilon: {grouping.facts.because}. Use "
            "per_sample() or another grouping that does not look at the data."
        )
    way = 'slots="fixed"' if grouping.kind == "core" else 'slots="random"'
    return (
        f"{grouping.label} with noise supports no epsilon: {grouping.facts.because}. "
        f"Use {way} for groups that do."
    )
