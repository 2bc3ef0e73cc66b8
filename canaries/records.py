"""Records: how many there are, and how one of them is laid out."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

Records: TypeAlias = Sequence[Any] | Dataset[Any] | Tensor


@dataclass(frozen=True)
class Part:
    """One tensor, number or container inside a record.

    Attributes:
        kind: For example `"float32 tensor"`, `"int"`, `"tuple of 2"`.
        shape: Its lengths; None where the data has more than one.
    """

    kind: str
    shape: tuple[int | None, ...] = ()

    def __str__(self) -> str:
        lengths = ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.kind} [{lengths}]" if self.shape else self.kind

    def widened(self, other: "Part") -> "Part":
        """This part with every length left open in which the other part differs."""
        if (self.kind, len(self.shape)) != (other.kind, len(other.shape)):
            return self
        pairs = zip(self.shape, other.shape, strict=True)
        return Part(self.kind, tuple(a if a == b else None for a, b in pairs))

    def ragged(self) -> "Part":
        """This part with its first length left open, as in utterances."""
        return Part(self.kind, (None, *self.shape[1:]) if self.shape else ())

    def admits(self, other: "Part") -> bool:
        """Whether the other part is of this kind and of these lengths, where they are fixed."""
        if (self.kind, len(self.shape)) != (other.kind, len(other.shape)):
            return False
        return all(n in (None, m) for n, m in zip(self.shape, other.shape, strict=True))


Layout: TypeAlias = dict[str, Part]  # where inside the record -> what is there, outermost first


def count(records: Records, what: str) -> int:
    """The number of records.

    Args:
        records: Anything with `len` and integer indices.
        what: Its name in error messages.

    Raises:
        TypeError: If the records cannot be indexed or counted.
    """
    if isinstance(records, IterableDataset) or not hasattr(records, "__getitem__"):
        raise TypeError(
            f"found {what} of type {type(records).__name__}, which cannot be indexed; canaries go "
            "to chosen positions, so pass a map-style dataset (list(...) makes one of a stream)"
        )
    if not isinstance(records, Sized):
        raise TypeError(f"found {what} of type {type(records).__name__} without __len__; add one")
    return len(records)


def layout(record: object, where: str = "item") -> Layout:
    """What a record consists of: containers, tensors with dtype and shape, types of the rest."""
    match record:
        case Tensor():
            kind = f"{str(record.dtype).removeprefix('torch.')} tensor"
            return {where: Part(kind, tuple(record.shape))}
        case np.ndarray():
            return {where: Part(f"{record.dtype} array", record.shape)}
        case list() if {type(entry) for entry in record} <= {int, float}:
            # A list of numbers (token ids, say) is one part whose length may vary.
            return {where: Part("list of numbers", (len(record),))}
        case dict():
            kind, entries = f"dict of {sorted(map(repr, record))}", list(record.items())
        case tuple() | list():
            kind, entries = f"{type(record).__name__} of {len(record)}", list(enumerate(record))
        case _:
            return {where: Part(type(record).__name__)}
    inside = [layout(entry, f"{where}[{name!r}]") for name, entry in entries]
    return {where: Part(kind)} | {path: part for parts in inside for path, part in parts.items()}


def shared_layout(records: Records, looks: int = 8) -> Layout:
    """The layout of the first record, with lengths left open that differ among a few others.

    Utterances and sentences come in many lengths, images in one; a few looks tell which.
    """
    last = count(records, "records") - 1
    rows = np.unique(np.linspace(0, last, num=looks).astype(np.int64)).tolist()
    shared = layout(records[0])
    for other in (layout(records[row]) for row in rows[1:]):
        shared = {path: part.widened(other.get(path, part)) for path, part in shared.items()}
    return shared


def difference(expected: Layout, found: Layout) -> str | None:
    """The first place where two layouts differ, in words, or None."""
    for path, part in found.items():
        wanted = expected.get(path)
        if wanted is None or not wanted.admits(part):
            return f"{path} is {part}, the data's is {wanted}"
    return None
