"""Injection: a dataset with canary copies at random positions, and where each of them went."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from canaries.records import Records, count, difference, layout, shared_layout
from canaries.streams import stream


@dataclass(frozen=True, eq=False)
class Injected(Dataset[Any]):
    """A map-style dataset of N data records and K canary copies; made by `inject`.

    The data keep their order around the copies. The dataset underneath is read, never changed.

    Attributes:
        data: The dataset underneath, N records.
        items: [n] one record per canary.
        origin: [N + K] at each index, the canary number, or -1 for a data record.
        rows: [N + K] at each index, the index into `data`, or into `items` for a copy.
    """

    data: Records
    items: Records
    origin: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        """N + K."""
        return len(self.origin)

    def __getitem__(self, index: int) -> Any:
        """The record at an index, whichever it is."""
        source = self.data if self.origin[index] < 0 else self.items
        return source[int(self.rows[index])]

    @cached_property
    def positions(self) -> dict[int, NDArray[np.int64]]:
        """Canary number -> the indices of its copies, ascending; empty if it was held out."""
        slots = np.flatnonzero(self.origin >= 0)
        numbers = range(count(self.items, "items"))
        return {number: slots[self.origin[slots] == number] for number in numbers}


def inject(
    dataset: Records,
    items: Records,
    copies: Sequence[int] | NDArray[np.int64],
    seed: int,
    *,
    ragged: bool = False,
) -> Injected:
    """The dataset with one canary copy per entry of `copies`, at uniformly random positions.

    Insert into training data only: a canary in validation data makes memorization look like
    quality.

    Args:
        dataset: N records; any map-style dataset.
        items: [n] one record per canary, laid out like the data's records.
        copies: [K] canary numbers, repeated as often as the canary is to appear (`Panel.copies`).
        seed: Decides the positions and nothing else.
        ragged: Whether the first length of whatever a record holds is free, as in a task that pads
            its batches, even if the data's own happen to be equal.

    Raises:
        TypeError: If the dataset or the items cannot be indexed (an IterableDataset).
        ValueError: If the dataset is empty, a copy names no item, or an item is not laid out like
            the data: another nesting, dtype or shape. A length in which the data's own records
            differ is free.
    """
    n_data, n_items = count(dataset, "dataset"), count(items, "items")
    numbers = np.asarray(copies)
    if n_data == 0:
        raise ValueError("found an empty dataset; canaries need data to sit in")
    if numbers.size == 0:
        numbers = np.empty(0, dtype=np.int64)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"found copies of dtype {numbers.dtype} and shape {numbers.shape}; expected a flat "
            "sequence of canary numbers, as Panel.copies() gives"
        )
    if outside := [int(number) for number in numbers if not 0 <= number < n_items]:
        raise ValueError(f"found a copy of canary {outside[0]}; expected 0 to {n_items - 1}")
    _check_layout(dataset, items, ragged)

    total = n_data + len(numbers)
    slots = stream(seed, "canaries.positions").permutation(total)[: len(numbers)]
    origin = np.full(total, -1, dtype=np.int64)
    origin[slots] = numbers
    rows = origin.copy()
    rows[origin < 0] = np.arange(n_data)
    for record in (origin, rows):
        record.flags.writeable = False
    return Injected(dataset, items, origin, rows)


def budget(injected: Injected) -> float:
    """The fraction of records that are canary copies; .001 to .01 leaves a task as it was."""
    return float(np.mean(injected.origin >= 0))


def _check_layout(dataset: Records, items: Records, ragged: bool) -> None:
    expected = shared_layout(dataset)
    if ragged:
        expected = {path: part.ragged() for path, part in expected.items()}
    for number in range(count(items, "items")):
        if gap := difference(expected, layout(items[number])):
            raise ValueError(
                f"canary {number} is not laid out like the data: {gap}; make canaries with the "
                "transform that the data went through"
            )
