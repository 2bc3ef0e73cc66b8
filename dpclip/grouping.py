"""Which samples share a gradient: per sample, per micro-batch, per core, per key."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from dpclip.types import Divisor, Grouping, GroupingFacts, Members
from dpclip.whole_numbers import check_count

_SHIFTS = (
    "groups are formed by position in the batch, so one record that leaves shifts all behind it"
)
_BY_POSITION = "2C while the batch size and every position stay fixed"
_IN_SLOTS = "2C if the record keeps its group, 4C if its group is drawn again"


def per_sample() -> Grouping:
    """Returns the grouping of DP-SGD (Abadi et al. 2016, Algorithm 1): each sample is a group."""
    return Grouping(
        label="per_sample()",
        kind="sample",
        assign=lambda members: torch.arange(members.rows),
        divisor=lambda q, n: Divisor(groups=q * n, size=1.0),
        facts=GroupingFacts(1.0, "each record has a row of its own", "2C"),
    )


def micro_batches(size: int, slots: Literal["position", "random"] = "position") -> Grouping:
    """Returns groups of `size` samples, whose mean gradient is clipped (arXiv 2408.16204, Alg. 1).

    Args:
        size: samples per micro-batch, b >= 1.
        slots: "position" takes b consecutive samples of the batch, as in the paper, and supports
            no epsilon. "random" draws one of S = max(1, round(q N / b)) slots for each record and
            step, independently of the other records; the group mean then divides by the expected
            size, and one record moves the sum by at most 2C.

    Raises:
        ValueError: size < 1 or an unknown word for slots.
    """
    check_count("micro_batches(size", size, "samples per micro-batch")
    if slots == "position":
        return Grouping(
            label=f"micro_batches({size})",
            kind="microbatch",
            assign=lambda members: torch.arange(members.rows) // size,
            divisor=lambda _q, _n: None,
            facts=GroupingFacts(None, _SHIFTS, _BY_POSITION),
            minimum=size,
        )
    if slots == "random":
        return Grouping(
            label=f'micro_batches({size}, slots="random")',
            kind="microbatch",
            assign=_random_slots,
            divisor=lambda q, n: _slots(max(1, round(q * n / size)), q, n),
            facts=GroupingFacts(2.0, "each record draws its slot by itself", _IN_SLOTS),
            needs_ids=True,
            minimum=size,
        )
    raise ValueError(f'slots={slots!r} is unknown: expected "position" or "random".')


def per_core(
    cores: int | None = None, slots: Literal["position", "fixed"] = "position"
) -> Grouping:
    """Returns one group per data-parallel core (per-core clipping, arXiv 2406.02004).

    Args:
        cores: n virtual cores in this process; None for the ranks of torch.distributed, of which
            each computes the gradient of its own share of the batch.
        slots: "position" gives each core a contiguous equal share of the batch, as in the paper,
            and supports no epsilon. "fixed" pins each record to a core by a hash of its index.

    Raises:
        ValueError: cores < 1 or an unknown word for slots.
    """
    if cores is not None:
        check_count("per_core(cores", cores, "cores")
    count = dist.get_world_size if cores is None else lambda: cores
    given = "" if cores is None else str(cores)
    if slots == "position":
        return Grouping(
            label=f"per_core({given})",
            kind="core",
            assign=lambda members: _equal_shares(members.rows, count()),
            divisor=lambda _q, _n: None,
            facts=GroupingFacts(None, _SHIFTS, _BY_POSITION),
            minimum=cores or 1,
            ranks=cores is None,
        )
    if slots == "fixed":
        return Grouping(
            label=f'per_core({given}{", " if given else ""}slots="fixed")',
            kind="core",
            assign=lambda members: _mix(_ids(members)) % count(),
            divisor=lambda q, n: _slots(count(), q, n),
            facts=GroupingFacts(2.0, "each record is pinned to its core by its index", _IN_SLOTS),
            needs_ids=True,
            minimum=cores or 1,
            ranks=cores is None,
        )
    raise ValueError(f'slots={slots!r} is unknown: expected "position" or "fixed".')


def by_key(key: Callable[[int], Hashable], unit: Literal["record", "user"] = "record") -> Grouping:
    """Returns one group per key, e.g. per speaker.

    Args:
        key: data set index -> hashable.
        unit: "record" samples records and protects a record. "user" samples whole keys, so that
            a group is all records of one key, and protects the key with everything it holds.

    Raises:
        ValueError: an unknown word for unit.
    """
    if unit not in ("record", "user"):
        raise ValueError(f'unit={unit!r} is unknown: expected "record" or "user".')
    whole = unit == "user"

    def assign(members: Members) -> Tensor:
        codes: dict[Hashable, int] = {}
        keys = (key(int(i)) for i in _ids(members))
        return torch.tensor([codes.setdefault(k, len(codes)) for k in keys], dtype=torch.int64)

    def divisor(q: float, n: int) -> Divisor:
        held: dict[Hashable, int] = {}
        for index in range(n):
            held[key(index)] = held.get(key(index), 0) + 1
        if whole:
            return Divisor(groups=q * len(held), size=None)
        present = sum(1 - (1 - q) ** count for count in held.values())
        return Divisor(groups=present, size=q * n / present)

    return Grouping(
        label=f"by_key({getattr(key, '__name__', 'key')}, unit={unit!r})",
        kind="key",
        assign=assign,
        divisor=divisor,
        facts=GroupingFacts(1.0, "a user's records are one group, sampled whole", "2C", "user")
        if whole
        else GroupingFacts(2.0, "each record is pinned to the group of its key", _IN_SLOTS),
        needs_ids=True,
        key=key,
    )


def _slots(count: int, q: float, n: int) -> Divisor:
    return Divisor(groups=float(count), size=q * n / count)


def _random_slots(members: Members) -> Tensor:
    assert members.stream is not None
    return members.stream.integers(members.slots, members.rows)


def _equal_shares(rows: int, cores: int) -> Tensor:
    """Returns [rows] core numbers: contiguous shares that differ by at most one sample."""
    shares = torch.tensor_split(torch.arange(rows), cores)
    return torch.repeat_interleave(torch.tensor([len(share) for share in shares]))


def _ids(members: Members) -> Tensor:
    if members.ids is None:
        raise RuntimeError(
            "This grouping needs to know which records are in the batch, and the batch did not "
            "come from the loader that make_private returned. Iterate over that loader."
        )
    return members.ids


def _mix(ids: Tensor) -> Tensor:
    """Returns a fixed hash of 64-bit ids (splitmix64), non-negative."""
    x = ids.to(torch.int64) - 7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ _shift_right(x, shift)) * factor
    return (x ^ _shift_right(x, 31)) & 0x7FFFFFFFFFFFFFFF


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Returns a logical shift; torch shifts signed integers arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
