"""The digest of a record: what a manifest can hold in place of the record itself."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def digest(record: object) -> str:
    """Sha256, in hex, of a record's content: values, dtypes, shapes and nesting.

    A digest binds: another content has another digest. It hides only what cannot be guessed; a
    six-digit secret can be found from its digest by trying a million fillings.

    Args:
        record: Tensors, arrays, strings, bytes, numbers, None, and tuples, lists and dicts of them.

    Raises:
        TypeError: If the record holds anything else.
    """
    sha = hashlib.sha256()
    for chunk in _chunks(record):
        # The length in front keeps ("ab", "c") apart from ("a", "bc").
        sha.update(len(chunk).to_bytes(8, "big"))
        sha.update(chunk)
    return sha.hexdigest()


def _chunks(record: object) -> Iterator[bytes]:
    match record:
        case Tensor():
            # Through bytes, because numpy has no bfloat16.
            flat = record.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            yield f"tensor {record.dtype} {tuple(record.shape)}".encode()
            yield flat.numpy().tobytes()
        case np.ndarray() | np.generic() if not record.dtype.hasobject:
            yield f"array {record.dtype.str} {record.shape}".encode()
            yield record.tobytes()
        case str():
            yield b"str"
            yield record.encode()
        case bytes():
            yield b"bytes"
            yield record
        case bool() | int() | float() | None:
            yield f"{type(record).__name__} {record!r}".encode()
        case tuple() | list():
            yield f"{type(record).__name__} of {len(record)}".encode()
            for part in record:
                yield from _chunks(part)
        case dict():
            yield f"dict of {len(record)}".encode()
            for name, part in sorted(record.items(), key=lambda pair: repr(pair[0])):
                yield from _chunks(name)
                yield from _chunks(part)
        case _:
            raise TypeError(
                f"found a {type(record).__name__} in a canary; expected tensors, arrays, strings, "
                "bytes, numbers, or tuples, lists and dicts of them: convert it before sealing"
            )
