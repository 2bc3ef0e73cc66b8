"""The global sources of randomness that a training run draws from, as plain values.

Dropout draws from torch's generator of its device, transforms from Python's and numpy's.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dpclip.checkpoints.plain import decode, encode


def generators() -> dict[str, Any]:
    """Returns the states of torch's, Python's and numpy's global generators in this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in cuda],
        "python": random.getstate(),
        "numpy": _listed(np.random.get_state(legacy=False)),
    }


def set_generators(states: dict[str, Any]) -> None:
    """Continues where `generators()` was called."""
    torch.set_rng_state(_bytes(states["torch"]))
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_bytes(state), device)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _bytes(state: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)


def _listed(value: Any) -> Any:
    """Returns numpy's nested state with lists for arrays."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def of_all_ranks(ranks: int, device: torch.device) -> list[dict[str, Any]]:
    """Returns `generators()` of each rank, in order; every rank calls it.

    Args:
        ranks: how many there are.
        device: where messages are made.
    """
    if ranks == 1:
        return [generators()]
    mine = json.dumps(encode(generators(), "generators", {})).encode()
    sizes = _gathered(torch.tensor([len(mine)], device=device), ranks)
    message = torch.zeros(int(torch.stack(sizes).max()), dtype=torch.uint8)
    message[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    texts = [m.cpu().numpy().tobytes() for m in _gathered(message.to(device), ranks)]
    return [
        decode(json.loads(text[: int(size)]), {}) for text, size in zip(texts, sizes, strict=True)
    ]


def _gathered(message: Tensor, ranks: int) -> list[Tensor]:
    every = [torch.empty_like(message) for _ in range(ranks)]
    dist.all_gather(every, message)
    return every
