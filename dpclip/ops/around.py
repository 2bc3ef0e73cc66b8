"""What a watch knows of the forward around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from dpclip.groups import Groups
from dpclip.ops.places import Place
from dpclip.ops.settling import Key
from dpclip.parts import Part

Parts = dict[nn.Parameter, Part]


class Host(Protocol):
    """What the hooks do for a watch."""

    def tap(self, output: Tensor, form: Callable[[Tensor, Groups], Parts]) -> Tensor:
        """Returns the output, requiring a gradient, with a hook that takes `form` of it.

        Called within a backward pass: `form(gradient, groups)`, without autograd.
        """

    def take(self, form: Callable[[Groups], Parts]) -> None:
        """Takes `form(groups)` in the backward pass that is running, without autograd."""

    def defer(self, form: Callable[[Groups], Parts]) -> None:
        """Takes `form(groups)` when the backward pass that is running has ended.

        Also called by what is deferred.
        """


class Settles(Protocol):
    """Who knows where samples are."""

    def settle(
        self, key: Key, tensor: Tensor, rows: int, barred: Collection[int], certain: bool
    ) -> Place | None:
        """Returns the place of the samples, None for a tensor without."""


class Watched(NamedTuple):
    """A module whose parameters are captured where they are used.

    Attributes:
        name: qualified name in the model.
        label: how messages call it.
        module: the module.
        params: its trainable parameters by qualified name relative to it.
    """

    name: str
    label: str
    module: nn.Module
    params: dict[str, nn.Parameter]


@dataclass(frozen=True)
class Around:
    """One forward.

    Attributes:
        rows: B.
        declared: the batch axis of the model's inputs.
        settler: finds samples.
        host: the hooks.
        fixed: returns the ids of the model's buffers and frozen parameters.
        strays: id -> (name, parameter) of those that are captured whoever uses them.
    """

    rows: int
    declared: int
    settler: Settles
    host: Host
    fixed: Callable[[], Collection[int]]
    strays: Mapping[int, tuple[str, nn.Parameter]]
