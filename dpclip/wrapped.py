"""Models wrapped in DistributedDataParallel, and whether there are other ranks at all."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dpclip.ranks import Ranks
from dpclip.types import Grouping, WeightingFacts


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the model inside DistributedDataParallel, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def silence(module: nn.Module) -> Callable[[], None]:
    """Keeps DistributedDataParallel from reducing, as its `no_sync()` does; returns the way back.

    Its reducer would wait for gradients that the parameters never get from autograd.
    """
    if not isinstance(module, DistributedDataParallel):
        return lambda: None
    before = module.require_backward_grad_sync, module.require_forward_param_sync
    module.require_backward_grad_sync = module.require_forward_param_sync = False

    def undo() -> None:
        module.require_backward_grad_sync, module.require_forward_param_sync = before

    return undo


def ranks_for(grouping: Grouping, weighting: WeightingFacts, like: Tensor) -> Ranks | None:
    """Returns the ranks that train together, None for one process.

    Raises:
        RuntimeError: `per_core()` without torch.distributed.
        ValueError: a method that needs the groups of all ranks at once, for groups that are not
            the ranks.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if grouping.ranks:
            raise RuntimeError(
                "per_core() takes the ranks of torch.distributed for its groups, and there are "
                "none. Start the script with torchrun and call "
                "torch.distributed.init_process_group() first, or use per_core(n) for n virtual "
                "cores in one process."
            )
        return None
    if dist.get_world_size() == 1 and not grouping.ranks:
        return None
    if not grouping.ranks and not weighting.local:
        raise ValueError(
            f"{grouping.label} over {dist.get_world_size()} ranks, with a weighting that looks at "
            f"other groups ({weighting.because}): a rank knows its own groups only. Use "
            "per_core(), whose groups are the ranks, or a weighting such as clip(C)."
        )
    if not grouping.ranks and weighting.count_noise is not None:
        raise ValueError(
            f"{grouping.label} over {dist.get_world_size()} ranks, with a noised count: a rank "
            "counts its own groups only, and bounds would drift apart. Use per_core(slots="
            '"fixed"), whose groups are the ranks, or clip(C).'
        )
    return Ranks(like)
