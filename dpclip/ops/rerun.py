"""An operation without a rule: what came back through its outputs, and what is made of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpclip.groups import Groups
from dpclip.ops.again import Again
from dpclip.ops.around import Host, Parts
from dpclip.ops.books import Books
from dpclip.ops.kept import Kept, refuse_half
from dpclip.ops.likes import Like
from dpclip.parts import Formed


class Rerun:
    """Waits for the gradients of all outputs of one operation, then runs it again.

    Args:
        again: the operation.
        likes: what its parameters' places hold, in the order of `again.weights`.
        rows: B.
        kept: the tensors that it will read.
        books: take the parts.
        host: the hooks.
    """

    def __init__(
        self, again: Again, likes: Sequence[Like], rows: int, kept: Kept, books: Books, host: Host
    ) -> None:
        self._again, self._likes, self._rows = again, likes, rows
        self._kept, self._books, self._host = kept, books, host
        self._gouts: dict[int, Tensor] = {}
        self._task = -1

    def form(self, number: int) -> Callable[[Tensor, Groups], Parts]:
        """Returns what takes the gradient of one output."""

        def take(grad: Tensor, _groups: Groups) -> Parts:
            refuse_half(grad, self._again.label)
            self._books.begin()
            task = torch._C._current_graph_task_id()
            if self._task != task:  # the first in this backward
                self._task, self._gouts = task, {}
                self._host.defer(self._finish)
            self._gouts[number] = grad
            return {}

        return take

    def _finish(self, groups: Groups) -> Parts:
        gouts, self._gouts = self._gouts, {}
        self._kept.check()
        parts: Parts = {}
        found = self._again.rows(gouts, self._rows, groups)
        for like, rows in zip(self._likes, found, strict=True):
            self._books.put(parts, like, Formed(rows), groups)
        return parts
