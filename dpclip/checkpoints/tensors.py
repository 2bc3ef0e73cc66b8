"""Named tensors in a safetensors file; tied ones are written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_UNKNOWN = (torch.complex128, torch.complex32)


def check_tensor(tensor: Tensor, path: str) -> None:
    """Raises TypeError, naming the path to it, for a tensor that safetensors cannot hold."""
    odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta
    if odd or tensor.dtype in _UNKNOWN:
        kind = "a tensor without values" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        raise TypeError(
            f"{path} is {kind}. A checkpoint holds dense tensors of real numbers, integers, bools "
            "or complex64: convert it, or leave it out."
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors, each once: further names of a tensor are noted in the file's metadata.

    That is how `safetensors.torch.save_model` writes a model, so that its `load_model` reads the
    file.

    Raises:
        TypeError: a tensor that the format cannot hold.
    """
    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[object, str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        check_tensor(tensor, name)
        where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and where in first:
            same[name] = first[where]
            continue
        first[where] = name
        kept[name] = _alone(tensor.detach(), storages)
    save_file(kept, path, metadata=same or None)  # {} and no tensors make an unreadable file


def _alone(tensor: Tensor, storages: set[int]) -> Tensor:
    """Returns the tensor, or a copy of it if its memory is part of more or was written before."""
    storage = tensor.untyped_storage()
    shared = storage.nbytes() != tensor.nbytes or storage.data_ptr() in storages
    storages.add(storage.data_ptr())
    return tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns what `write_tensors` was given, on the CPU; tied names share one tensor.

    The tensors are copies: one that is a view of the mapped file would change with the file.
    """
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        same = file.metadata() or {}
    return held | {name: held[kept] for name, kept in same.items() if kept in held}
