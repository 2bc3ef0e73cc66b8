"""One checkpoint on the disk: weights, everything else, and a manifest."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from dpclip.checkpoints.plain import decode, encode
from dpclip.checkpoints.sealed import Unusable, seal, unsealed
from dpclip.checkpoints.tensors import read_tensors, write_tensors

_FORMAT = 1
_WEIGHTS, _TENSORS, _STATE = "weights.safetensors", "state.safetensors", "state.json"


def store(target: Path, weights: dict[str, Tensor], state: dict[str, Any], steps: int) -> None:
    """Writes a checkpoint.

    Args:
        target: a folder that is not there yet.
        weights: of the model.
        state: nested plain values and tensors.
        steps: optimizer steps, for people who look at the manifest.

    Raises:
        TypeError: a value that is not plain; nothing is written.
    """
    tensors: dict[str, Tensor] = {}
    tree = {name: encode(value, name, tensors) for name, value in state.items()}

    def write(folder: Path) -> None:
        write_tensors(folder / _WEIGHTS, weights)
        write_tensors(folder / _TENSORS, tensors)
        (folder / _STATE).write_text(json.dumps(tree, allow_nan=False))

    facts = {"format": _FORMAT, "dpclip": version("dpclip"), "steps": steps, "saved": list(tree)}
    seal(target, write, facts)


def stored(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns (weights, state) of a checkpoint, all verified, on the CPU or where they were.

    Raises:
        Unusable: anything is missing, damaged or of another format.
    """
    found = unsealed(path).get("format")
    if found != _FORMAT:
        raise Unusable(f"it has format {found}, this version of dpclip reads {_FORMAT}")
    try:
        tensors = read_tensors(path / _TENSORS)
        tree = json.loads((path / _STATE).read_bytes())
        state = {name: decode(value, tensors) for name, value in tree.items()}
        return read_tensors(path / _WEIGHTS), state
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise Unusable(f"it cannot be read: {error!r}") from error
    except SafetensorError as error:
        raise Unusable(f"it holds no safetensors: {error}") from error


def check_weights(found: dict[str, Tensor], module: nn.Module) -> None:
    """Raises Unusable, naming them, if tensors are not those of a model."""
    wanted = {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}
    wrong = {
        "missing": [n for n in wanted if n not in found],
        "unexpected": [n for n in found if n not in wanted],
        "of another shape": [
            f"{n} {_kind(found[n])} instead of {_kind(t)}"
            for n, t in wanted.items()
            if n in found and _kind(found[n]) != _kind(t)
        ],
    }
    said = [f"{why}: {', '.join(names[:5])}" for why, names in wrong.items() if names]
    if said:
        raise Unusable(f"its weights are of another model ({'; '.join(said)})")


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
