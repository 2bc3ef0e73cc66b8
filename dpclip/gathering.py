"""What one backward pass has brought in: a part for each parameter, and its squared norms."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dpclip.parts import Formed, Part, form
from dpclip.parts.part import accumulated
from dpclip.speed import Chooser


class Buffers:
    """Memory for rows that is kept from step to step: fresh pages cost more than the sums."""

    def __init__(self) -> None:
        self._kept: dict[nn.Parameter, Tensor] = {}

    def rows(self, param: nn.Parameter, count: int, dtype: torch.dtype) -> Tensor:
        """Returns [G, *shape] with any content; what it held before is lost."""
        kept = self._kept.get(param)
        if kept is None or len(kept) < count or kept.dtype != dtype or kept.device != param.device:
            kept = torch.empty(count, *param.shape, dtype=dtype, device=param.device)
            self._kept[param] = kept
        return kept[:count]

    def drop(self, param: nn.Parameter) -> None:
        """Gives the memory of one parameter's rows back."""
        self._kept.pop(param, None)

    def clear(self) -> None:
        """Gives the memory back."""
        self._kept.clear()


@dataclass
class _Entry:
    """A part, its squared norms once they are known, and whether it lies in our own buffer."""

    part: Part
    squares: Tensor | None = None
    owned: bool = False


@dataclass
class Gathered:
    """The parts of one backward pass.

    Attributes:
        count: G.
        chooser: decides which rows are formed.
        buffers: where they are formed.
        shared: parameters seen to be used more than once in one backward; whether their rows are
            formed is decided when all uses are known.
    """

    count: int
    chooser: Chooser
    buffers: Buffers
    shared: set[nn.Parameter]
    entries: dict[nn.Parameter, _Entry] = field(default_factory=dict)

    def add(self, parts: dict[nn.Parameter, Part]) -> None:
        """Takes the parts of one use of a layer; a parameter that is used again adds up."""
        for param, part in parts.items():
            if not param.requires_grad:
                continue
            entry = self.entries.get(param)
            if entry is None:
                entry = self.entries[param] = _Entry(part)
                if param not in self.shared:
                    self._settle(param, entry)
            else:
                self.shared.add(param)
                self._join(param, entry, part)

    def rows(self, params: list[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
        """Returns the rows [G, *shape] of every parameter that has any."""
        return {p: self._form(p, self.entries[p]) for p in params if p in self.entries}

    def taken(self, param: nn.Parameter) -> tuple[Part, Tensor] | None:
        """Returns (part, squared norms [G]) of a parameter, None if nothing came back for it."""
        entry = self.entries.get(param)
        if entry is None:
            return None
        if entry.squares is None:
            self._settle(param, entry)
        assert entry.squares is not None
        return entry.part, entry.squares

    def _settle(self, param: nn.Parameter, entry: _Entry) -> None:
        if not isinstance(entry.part, Formed):
            choice = self.chooser.choose(param, entry.part, self.count, lambda: self._buffer(param))
            if choice.formed:
                self._form(param, entry)
            else:  # it was only measured there
                self.buffers.drop(param)
        entry.squares = entry.part.squares()

    def _form(self, param: nn.Parameter, entry: _Entry) -> Tensor:
        if not isinstance(entry.part, Formed):
            entry.part = form(entry.part, self._buffer(param))
            entry.owned = True
        return entry.part.formed

    def _own(self, param: nn.Parameter, entry: _Entry) -> Tensor:
        """Returns the rows in our own buffer, where something may be added to them."""
        if not entry.owned:
            self.chooser.must_form(param, self.count)
            entry.part = Formed(entry.part.rows(self._buffer(param)))
            entry.owned = True
        assert isinstance(entry.part, Formed)
        return entry.part.formed

    def _join(self, param: nn.Parameter, entry: _Entry, part: Part) -> None:
        entry.squares = None
        both = None if entry.owned else entry.part.joined(part)
        if both is not None:
            entry.part = both
        else:
            rows = self._own(param, entry)
            part.add_to(rows)
            entry.part = Formed(rows)

    def _buffer(self, param: nn.Parameter) -> Tensor:
        return self.buffers.rows(param, self.count, accumulated(param.dtype))
