"""How large a physical batch may be: in samples, and in samples times the longest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Lengths = Sequence[int] | NDArray[np.integer] | Tensor
"""[N] length of each record by data set index: whole numbers of at least 1, in any unit."""


@dataclass(frozen=True, eq=False)
class Limits:
    """How large a physical batch may be.

    Attributes:
        rows: largest number of samples, or None.
        size: largest number of samples times the length of the longest, or None.
        lengths: [N] length of each record by data set index, or None if they do not matter.
    """

    rows: int | None = None
    size: int | None = None
    lengths: NDArray[np.int64] | None = None

    def of(self, ids: Sequence[int]) -> list[int]:
        """Returns the length of each of these records, 1 where lengths do not matter."""
        if self.lengths is None:
            return [1] * len(ids)
        found: list[int] = self.lengths[np.asarray(ids, dtype=np.int64)].tolist()
        return found

    def hold(self, rows: int, longest: int) -> bool:
        """Returns whether so many samples, padded to the longest, may be one physical batch."""
        few = self.rows is None or rows <= self.rows
        return few and (self.size is None or rows * longest <= self.size)


def limits(rows: int | None, size: int | None, lengths: Lengths | None, records: int) -> Limits:
    """Returns the limits that make_private was given.

    Args:
        rows: max_physical_batch.
        size: max_physical_size.
        lengths: of the records.
        records: N.

    Raises:
        ValueError: a size without lengths, lengths without a limit, lengths that are not N whole
            numbers of at least 1, or a record longer than the size.
    """
    if size is not None and size < 1:
        raise ValueError(f"max_physical_size={size}: expected at least 1.")
    if lengths is None:
        if size is not None:
            raise ValueError(
                f"max_physical_size={size} is samples times the longest of them, and no lengths "
                "were given. Give lengths=[...], one for each record of the data set."
            )
        return Limits(rows)
    if rows is None and size is None:
        raise ValueError(
            "lengths were given, which only decide where logical batches are cut, and nothing "
            "cuts them. Give max_physical_size (samples times the longest), max_physical_batch "
            "(samples), or both."
        )
    checked = _checked(lengths, records)
    longest = int(checked.argmax())
    if size is not None and checked[longest] > size:
        raise ValueError(
            f"Record {longest} has length {checked[longest]}, which alone is more than "
            f"max_physical_size={size}. Give at least {checked[longest]}, or leave out longer "
            "records."
        )
    return Limits(rows, size, checked)


def _checked(lengths: Lengths, records: int) -> NDArray[np.int64]:
    """Returns lengths [N], of their own.

    Raises:
        ValueError: another number of them, or one that is no whole number of at least 1.
    """
    found = np.asarray(lengths)
    if found.shape != (records,):
        raise ValueError(
            f"lengths has shape {found.shape}: expected ({records},), one for each record of the "
            "data set, by its index."
        )
    if found.dtype.kind not in "iu":
        raise ValueError(f"lengths are of type {found.dtype}: expected whole numbers.")
    if (found < 1).any():
        index = int((found < 1).argmax())
        raise ValueError(f"Record {index} has length {found[index]}: expected at least 1.")
    return found.astype(np.int64)
