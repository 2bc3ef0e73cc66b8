"""Forward and backward passes, as the hooks report them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dpclip.gathering import Gathered
from dpclip.groups import Groups
from dpclip.ledger import Ledger
from dpclip.parts import Part
from dpclip.passes import Forward, Pass
from dpclip.precision import without_autocast
from dpclip.yielded import Yielded


class Backward:
    """Collects the parts of one backward pass after the other, and hands each on when it ends.

    Args:
        yielded: what the loader says of the rows.
        ledger: is told what voids the claim.
        gather: number of groups -> where their parts are gathered.
        finish: takes a backward pass that has ended.
        strict: whether rows that the loader has not just yielded are an error (over ranks).
    """

    def __init__(
        self,
        yielded: Yielded,
        ledger: Ledger,
        gather: Callable[[int], Gathered],
        finish: Callable[[Pass], None],
        strict: bool,
    ) -> None:
        self._yielded, self._ledger, self._strict = yielded, ledger, strict
        self._gather, self._finish = gather, finish
        self._pass: Pass | None = None

    def begin_forward(self, rows: int) -> Forward:
        """Returns the batch of a forward pass that starts."""
        piece = self._yielded.piece
        if piece is not None and rows > len(piece.slots) and self._yielded.done == 0:
            raise RuntimeError(
                f"The model got {rows} samples, but the loader yielded {len(piece.slots)}. Train "
                "on each batch as it comes, before the next is drawn (gradient accumulation draws "
                "several at once: use larger logical batches and max_physical_batch); for "
                "evaluation use model.eval() or torch.no_grad()."
            )
        return Forward(rows, piece, torch._C._current_graph_task_id(), self._yielded.done)

    def begin_backward(self, batch: Forward) -> None:
        """Opens the pass of a new backward, or checks that this one is about one batch."""
        task = torch._C._current_graph_task_id()
        if batch.task != -1:
            raise RuntimeError(
                "Re-entrant activation checkpointing is not supported: its backward runs inside "
                "another. Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        if self._pass is not None and self._pass.task == task:
            if not batch.same_batch(self._pass.forward):
                raise RuntimeError(
                    "One backward pass covers forward passes over different batches or parts of "
                    f"one ({self._pass.forward.rows} and {batch.rows} samples). Call backward() "
                    "for each by itself."
                )
            return
        # An exception may have cut an earlier backward short: what it left is dropped here.
        doubt = self._yielded.doubt(batch)
        if doubt is not None and self._strict:
            raise RuntimeError(
                f"Over several ranks every batch is one of the loader's, used once; here {doubt}."
            )
        groups, divisor = batch.assigned or self._yielded.assign(batch)
        if doubt is not None:
            self._ledger.void(doubt)
        gathered = self._gather(groups.count)
        self._pass = Pass(task, batch, groups, divisor, gathered)
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def groups(self) -> Groups:
        """Returns the groups of the batch whose backward is running."""
        assert self._pass is not None
        return self._pass.groups

    def collect(self, parts: dict[nn.Parameter, Part]) -> None:
        """Takes the parts of one use of a layer."""
        assert self._pass is not None
        self._pass.gathered.add(parts)

    def defer(self, work: Callable[[], None]) -> None:
        """Keeps work for the end of the backward."""
        assert self._pass is not None
        self._pass.deferred.append(work)

    def groups_ahead(self, batch: Forward) -> Groups:
        """Returns the groups of a forward pass before its backward.

        Raises:
            RuntimeError: only a part of the physical batch goes through the model.
        """
        if batch.piece is not None and batch.rows < len(batch.piece.slots):
            raise RuntimeError(
                f"loop=True runs the model for each group, and got {batch.rows} of the "
                f"{len(batch.piece.slots)} samples that the loader yielded. Pass the whole batch; "
                "for less memory use max_physical_batch."
            )
        batch.assigned = self._yielded.assign(batch)
        return batch.assigned.groups

    def _end(self) -> None:
        current = self._pass
        assert current is not None
        with without_autocast(self._yielded.device):
            for work in current.deferred:
                work()
            self._pass = None
            self._yielded.done += current.forward.rows
            with torch.no_grad():
                self._finish(current)
