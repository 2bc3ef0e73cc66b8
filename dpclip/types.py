"""The values that methods are made of.

A method is a rule that turns group statistics into group weights. It is put together from four
values: a `Grouping`, a `Weighting`, a `Noise` and a `Pacing`. Index letters used in every file of
this package:

    B  samples in one backward pass        G  groups they fall into
    L  trainable parameter tensors         N  records in the data set
    P  trainable numbers in all
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""What a weighting remembers between calls: named tensors, so that a checkpoint needs no pickle."""


@dataclass(frozen=True)
class Stats:
    """What a weighting sees of the groups of one backward pass.

    Attributes:
        norms: [G] l2 norm of the group gradient u_g over all trainable parameters.
        layer_norms: [L, G] the same for each parameter tensor.
        sizes: [G] samples in the group.
        valid: [G] False for empty groups and for groups with a NaN or infinite gradient.
        divisor: D, what the sum of weighted groups is divided by.
        rows: for a weighting that needs them, layer -> [G, numel] the mean gradient of each group
            over the samples it holds, exactly 0 for groups that are not valid; a fresh copy, so
            that only one layer's is there at a time.
    """

    norms: Tensor
    layer_norms: Tensor
    sizes: Tensor
    valid: Tensor
    divisor: float
    rows: Callable[[int], Tensor] | None = None


class WeightingFacts(NamedTuple):
    """What a weighting promises about every weighted row.

    Attributes:
        bound: the largest norm of w_g u_g, or None where there is no bound.
        local: True if w_g depends on row g alone (and on constants).
        because: the reason, as the end of a sentence.
        count_noise: std of the noise on the count of clipped groups that steers the bound
            (Andrew et al. 2021), or None if nothing but the rows is released.
    """

    bound: float | None
    local: bool
    because: str
    count_noise: float | None = None


class Stream(Protocol):
    """A source of randomness, apart from every other and from torch's global one.

    Attributes:
        secure: whether it withstands somebody who sees what it gave (see `dpclip.streams`).
    """

    secure: bool

    def uniform(self, count: int) -> Tensor:
        """Returns [count] numbers in [0, 1) with 53 random bits each, float64."""

    def integers(self, high: int, count: int) -> Tensor:
        """Returns [count] numbers of 0 .. high - 1, int64."""

    def order(self, count: int) -> Tensor:
        """Returns [count] a random permutation of 0 .. count - 1."""

    def normal(self, like: Tensor, std: float) -> Tensor:
        """Returns independent normal numbers with the shape, dtype and device of `like`."""

    def state(self) -> Tensor | None:
        """Returns what continues the stream here, None for one that must not be written down."""

    def restore(self, state: Tensor) -> None:
        """Continues where `state()` was taken."""


def _same(state: State, _stream: Stream | None) -> State:
    return state


@dataclass(frozen=True)
class Weighting:
    """A rule from statistics to weights, as pure functions over a state.

    Attributes:
        label: the constructor call, for people.
        init: (parameter shapes) -> state.
        weigh: (stats, state) -> (weights [G] or [L, G], state). The engine sets the weight of
            invalid groups to zero whatever this returns.
        facts: state -> WeightingFacts, the promise at that state.
        finish: (state, stream) -> state at the end of a step; draws from the stream only what is
            needed for privacy.
        carry: (state before, state after) -> factor for what earlier backward passes of the same
            step have added up, or None if a step must be one backward pass.
        needs: "norms", or "rows" for a rule that makes the update itself: its `weigh` gets
            `stats.rows` and returns ([P], state), the sum over groups of m_g times what becomes of
            each mean gradient, layer after layer. The engine divides it by the samples of the
            step (for a mean loss). Nothing can be claimed for such a rule, so its bound is None.
        observe: (state, loss) -> state, for a rule that reads losses; None for one that does not.
    """

    label: str
    init: Callable[[Sequence[torch.Size]], State]
    weigh: Callable[[Stats, State], tuple[Tensor, State]]
    facts: Callable[[State], WeightingFacts]
    finish: Callable[[State, Stream | None], State] = _same
    carry: Callable[[State, State], Tensor] | None = None
    needs: Literal["norms", "rows"] = "norms"
    observe: Callable[[State, float], State] | None = None


class Members(NamedTuple):
    """The samples of one logical batch, as a grouping sees them.

    Attributes:
        rows: how many there are (B).
        ids: [B] data set indices, or None for a batch that did not come from the loader.
        slots: how many slots there are to choose from (0 where the grouping has none).
        stream: source of random slots.
        features: [B, any] what the model has computed of them, for a grouping that names it; None
            before the forward.
    """

    rows: int
    ids: Tensor | None
    slots: int
    stream: Stream | None
    features: Tensor | None = None


class Divisor(NamedTuple):
    """Public constants of a grouping under Poisson sampling.

    Attributes:
        groups: D, the expected number of groups; the sum of rows is divided by it.
        size: expected samples per group, or None where a group divides by the samples it holds.
    """

    groups: float
    size: float | None


class GroupingFacts(NamedTuple):
    """How far one record can move the sum of rows that are each at most C long.

    Attributes:
        radii: add/remove sensitivity in units of C, or None if it cannot be bounded.
        because: the reason, as the end of a sentence.
        replace_one: the replace-one fact as text; never used for an epsilon.
        unit: what is protected.
    """

    radii: float | None
    because: str
    replace_one: str
    unit: Literal["record", "user"] = "record"


@dataclass(frozen=True)
class Grouping:
    """A rule from samples to groups.

    Attributes:
        label: the constructor call, for people.
        kind: the word used in reports: sample, microbatch, core, key.
        assign: members -> [B] slot number of each sample; samples with one number form a group.
        divisor: (sampling rate q, N) -> public constants, or None for groups by position, whose
            divisor is the actual number of groups.
        facts: the promise.
        needs_ids: True if a batch that did not come from the loader cannot be grouped.
        key: data set index -> hashable, for groups that are known beforehand.
        minimum: smallest batch that makes sense.
        ranks: True if the groups are the ranks of torch.distributed.
        features: module of the model (or its name) whose output decides on the groups; they are
            then assigned once more, after the forward of the whole batch.
    """

    label: str
    kind: str
    assign: Callable[[Members], Tensor]
    divisor: Callable[[float, int], Divisor | None]
    facts: GroupingFacts
    needs_ids: bool = False
    key: Callable[[int], Hashable] | None = None
    minimum: int = 1
    ranks: bool = False
    features: str | nn.Module | None = None


@dataclass(frozen=True)
class Noise:
    """A noise distribution.

    Attributes:
        label: the constructor call, for people.
        sample: (like, std, stream) -> tensor with the shape, dtype and device of `like`.
    """

    label: str
    sample: Callable[[Tensor, float, Stream], Tensor]


@dataclass(frozen=True)
class Pacing:
    """A rule for when the optimizer steps on what several batches have added up.

    Attributes:
        label: the constructor call, for people.
        decide: angles in degrees between the sum before and after each batch but the first, since
            the last decision and in order -> whether the sum is complete.
        discards: the last of those angles -> whether a complete sum is thrown away.
        cap: samples at which the sum is complete whatever the angles are, or None.
        monitor: prefix of the names of the parameters whose angle is taken; None draws a layer
            each time.
    """

    label: str
    decide: Callable[[Sequence[float]], bool]
    discards: Callable[[float], bool]
    cap: float | None = None
    monitor: str | None = None


class Moment(NamedTuple):
    """What extra groups are told of the step that they join.

    Attributes:
        step: optimizer steps taken before it.
        claimed: C, the length that the weighting promises to leave a group, or None.
        bound: the length that the weighting really leaves a group however long it is, asked of it
            in this step; None where it bounds nothing.
        swings: True if one record can turn its group round, from -C to C (grouping facts of 2).
        rate: q of the logical batch, None if it was not drawn by Poisson sampling.
        divisor: D, what the sum in `p.grad` is divided by.
    """

    step: int
    claimed: float | None
    bound: float | None
    swings: bool
    rate: float | None
    divisor: float


class ExtraGroups(Protocol):
    """Groups of an audit that join the weighted groups of the data in every step, before the noise.

    Their randomness must be their own, so that batches and noise stay what they are without them.
    """

    @property
    def label(self) -> str:
        """What they are, for people, e.g. "1000 Dirac canaries"."""

    def fit(self, shapes: Sequence[torch.Size]) -> None:
        """Raises ValueError unless they fit trainable parameters of these L shapes."""

    def join(self, grads: Sequence[Tensor], moment: Moment) -> None:
        """Adds weighted groups, each at most `moment.bound` long, over D to L gradients, in place.

        Called once for each optimizer step, when the gradients hold the sum of the data's groups.
        """

    def shrunk(self, factor: float) -> None:
        """Learns that a trainer has clipped the gradients since they joined, to `factor` of it."""

    def released(self, grads: Sequence[Tensor]) -> None:
        """Sees the L gradients of the same step as they are released, with noise."""
