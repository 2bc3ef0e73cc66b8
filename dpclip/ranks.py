"""The ranks of torch.distributed: what they must agree on, and what they exchange in a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from dpclip.types import Stats

_BUCKET = 25_000_000  # numbers in one message, as DistributedDataParallel's 25 MB buckets and more


class Ranks:
    """All ranks of the default process group; every method is called by each of them alike.

    Args:
        like: a parameter; messages are made where it is, and the backend must send from there.

    Attributes:
        rank: 0 .. count - 1.
        count: how many ranks there are.
    """

    def __init__(self, like: Tensor) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._like = like

    def agree(self, facts: Mapping[str, float]) -> None:
        """Raises ValueError on every rank unless all were given the same facts."""
        mine = torch.tensor(list(facts.values()), dtype=torch.float64)
        self._compare(facts, self._every(mine, "comparing"))

    def _compare(self, facts: Mapping[str, float], every: Tensor) -> None:
        for name, values in zip(facts, every.T.tolist(), strict=True):
            if len(set(values)) > 1:
                raise ValueError(
                    f"The ranks disagree: {name} is {', '.join(f'{v:g}' for v in values)} on ranks "
                    f"0 to {self.count - 1}. Give every rank the same data set, model, seed and "
                    "settings; each takes its own share of every batch by itself."
                )

    def start_alike(self, tensors: Sequence[Tensor]) -> None:
        """Gives all ranks the values of rank 0, in place."""
        for tensor in tensors:
            self._do("starting", lambda tensor=tensor: dist.broadcast(tensor, 0))  # type: ignore[misc]

    def same_bytes(self, mine: bytes) -> bytes:
        """Returns the bytes of rank 0."""
        message = torch.tensor(list(mine), dtype=torch.uint8, device=self._like.device)
        self.start_alike([message])
        return bytes(message.tolist())

    def check_step(self, step: int, facts: Mapping[str, float]) -> None:
        """Raises on every rank unless all are at the same optimizer step, with the same facts.

        Raises:
            RuntimeError: a rank is ahead.
            ValueError: other facts, e.g. a noise multiplier that was changed on one rank only.
        """
        mine = torch.tensor([float(step), *facts.values()], dtype=torch.float64)
        every = self._every(mine, f"ending step {step + 1}")
        steps = every[:, 0].tolist()
        if len(set(steps)) > 1:
            raise RuntimeError(
                f"The ranks lost step: ranks 0 to {self.count - 1} have taken "
                f"{', '.join(f'{s:g}' for s in steps)} optimizer steps. Every rank must call "
                "backward() and step() once for each batch of the loader, also for one in which it "
                "has no record."
            )
        self._compare(facts, every[:, 1:])

    def gather(self, stats: Stats) -> tuple[Stats, slice]:
        """Returns the statistics of the groups of all ranks, and which of them are this rank's.

        Args:
            stats: of this rank's group; G is 0 for a rank without a record, else 1.
        """
        layers, held = len(stats.layer_norms), len(stats.norms)
        mine = torch.zeros(layers + 2, dtype=torch.float64, device=self._like.device)
        if held:
            mine[0], mine[1] = 1.0, stats.sizes[0]
            mine[2:] = stats.layer_norms[:, 0]
        every = self._every(mine, "exchanging norms").to(stats.norms.device)
        there = every[:, 0] > 0
        before = int(there[: self.rank].sum())
        norms = every[there, 2:].T.to(stats.layer_norms.dtype)
        whole = torch.linalg.vector_norm(norms, dim=0)
        sizes = every[there, 1].to(stats.sizes.dtype)
        gathered = Stats(whole, norms, sizes, whole.isfinite(), stats.divisor)
        return gathered, slice(before, before + held)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the ranks, in place."""
        for bucket in _buckets(tensors):
            flat = _flatten_dense_tensors(bucket)
            self._do("adding gradients", lambda flat=flat: dist.all_reduce(flat))  # type: ignore[misc]
            for tensor, total in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
                tensor.copy_(total)

    def _every(self, mine: Tensor, doing: str) -> Tensor:
        """Returns [ranks, *] what each rank gave."""
        mine = mine.to(self._like.device)
        every = [torch.empty_like(mine) for _ in range(self.count)]
        self._do(doing, lambda: dist.all_gather(every, mine))
        return torch.stack(every).cpu()

    def _do(self, doing: str, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:  # what every backend raises when a peer is gone
            raise RuntimeError(
                f"Rank {self.rank} of {self.count} lost the others while {doing}: another rank "
                "failed, stopped early or did not answer in time (its own message says why). "
                "Mend the cause and start the job again from its last checkpoint."
            ) from error


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Returns the tensors in order, those of one type side by side together up to a limit."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        if not buckets or buckets[-1][0].dtype != tensor.dtype or size + tensor.numel() > _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets
