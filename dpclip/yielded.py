"""What the loader has yielded, and how the rows of a forward pass fall into groups."""

from __future__ import annotations

import torch
from torch import Tensor

from dpclip.features import Features
from dpclip.groups import groups_of
from dpclip.passes import Assigned, Forward
from dpclip.pieces import Piece
from dpclip.types import Divisor, Grouping, Members, Stream


class Yielded:
    """The physical batch that the loader yielded last, and how far training has come in it.

    Args:
        grouping: groups rows that did not come from the loader.
        divisor: public constants of the grouping, or None.
        stream: source of slots for such rows.
        like: a parameter; group numbers go where it is, also after it was moved.

    Attributes:
        piece: the batch, None before the first.
        done: rows of it that went through a backward.
        features: of the model, where the grouping needs them.
    """

    def __init__(
        self, grouping: Grouping, divisor: Divisor | None, stream: Stream, like: Tensor
    ) -> None:
        self.grouping, self.divisor = grouping, divisor
        self._stream, self._like = stream, like
        self.piece: Piece | None = None
        self.done = 0
        self.features: Features | None = None

    @property
    def device(self) -> torch.device:
        """Where group numbers go."""
        return self._like.device

    def take(self, piece: Piece) -> None:
        """Takes what the loader yields."""
        self.piece, self.done = piece, 0

    @property
    def complete(self) -> bool:
        """True when every row of the logical batch went through a backward."""
        piece = self.piece
        return piece is not None and piece.last and self.done == len(piece.slots)

    def doubt(self, batch: Forward) -> str | None:
        """Returns why no epsilon may be claimed once these rows went through backward, or None."""
        if batch.piece is None:
            return "a batch did not come from the loader, so its sampling is unknown"
        if not self._is_next(batch):
            return (
                "rows went through backward that the loader had not just yielded, so a record may "
                "count twice in one step"
            )
        return None

    def assign(self, batch: Forward) -> Assigned:
        """Returns how the B rows fall into groups.

        Raises:
            RuntimeError: records that are not known, for a grouping that needs to know them.
        """
        piece, rows = batch.piece, batch.rows
        if self.features is not None:
            return self._by_features(self.features, piece, rows)
        if piece is not None and self._is_next(batch):
            part = slice(self.done, self.done + rows)
            groups = groups_of(piece.slots[part], piece.real[part], self.device)
            return Assigned(groups, self.count(piece))
        if piece is not None and rows == len(piece.slots):  # a second loss on the same records
            return Assigned(groups_of(piece.slots, piece.real, self.device), self.count(piece))
        if self.grouping.needs_ids:
            raise RuntimeError(
                f"{self.grouping.label} needs to know which records are in the batch, and these "
                f"{rows} samples did not come from the loader that make_private returned. Iterate "
                "over that loader, and use each batch once."
            )
        slots = self.grouping.assign(Members(rows, None, 0, self._stream))
        groups = groups_of(slots, None, self.device)
        return Assigned(groups, float(groups.count))

    def _by_features(self, features: Features, piece: Piece | None, rows: int) -> Assigned:
        """Returns groups that are formed of what the model has computed of the whole batch.

        Raises:
            RuntimeError: a part of the batch alone.
        """
        if piece is not None and rows < len(piece.slots):
            raise RuntimeError(
                f"{self.grouping.label} forms its groups from a whole batch, and {rows} of the "
                f"{len(piece.slots)} samples that the loader yielded went through the model. Pass "
                "the whole batch."
            )
        real = torch.ones(rows, dtype=torch.bool) if piece is None else piece.real

        def assign(found: Tensor) -> Tensor:
            slots = torch.full((rows,), -1)
            kept = found if bool(real.all()) else found[real.to(found.device)]
            members = Members(len(kept), None, 0, self._stream, kept)
            slots[real] = self.grouping.assign(members).cpu()
            return slots

        groups = groups_of(features.grouped(rows, assign), real, self.device)
        return Assigned(groups, float(max(1, groups.count)))

    def count(self, piece: Piece) -> float:
        """Returns D: the expected number of groups where that is public, else the actual one."""
        return self.divisor.groups if self.divisor else float(max(1, piece.groups))

    def slots_of_last(self, rows: int) -> Tensor:
        """Returns the slots of those of the last `rows` rows that are no padding."""
        assert self.piece is not None
        last = slice(self.done - rows, self.done)
        return self.piece.slots[last][self.piece.real[last]]

    def goes_on(self) -> bool:
        """Returns True if the last group that went through a backward has rows still to come."""
        assert self.piece is not None
        slots, real, after = self.piece.slots, self.piece.real, self.done
        if after < len(slots):
            return bool(real[after - 1] and real[after] and slots[after] == slots[after - 1])
        return after == len(slots) and self.piece.open

    def _is_next(self, batch: Forward) -> bool:
        """Returns True if the rows of a forward are the next ones of what was yielded.

        Slices go through forward and backward one after the other: which rows a slice holds is
        known by what was done before it.
        """
        if batch.piece is None or batch.piece is not self.piece or batch.start != self.done:
            return False
        return self.done + batch.rows <= len(self.piece.slots)
