"""Increments on their way to an update: the sum beside `p.grad`, and the angles it turns by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpclip.parts.part import accumulated
from dpclip.types import Pacing, Stream

_REMEMBERED = 50  # rewards of a layer
_STILL = 20  # increments after which a layer that was to be watched should have moved
_AT_ONCE = 1 << 20  # numbers of a gradient that are widened together


class Paced(NamedTuple):
    """A sum that was complete.

    Attributes:
        samples: that it holds; expected ones, where the actual number is not public.
        angles: degrees it turned by with each increment but the first.
        layer: whose angle that is.
        discarded: whether it was thrown away.
    """

    samples: float
    angles: tuple[float, ...]
    layer: str | None
    discarded: bool


@dataclass(frozen=True)
class Pace:
    """How far training has come, and in which steps.

    Attributes:
        samples: of all increments so far, those that were thrown away too: the clock of a schedule
            by sample.
        complete: the sums that were complete, in order.
        angles: of the sum that is under way.
    """

    samples: float
    complete: tuple[Paced, ...]
    angles: tuple[float, ...]

    @property
    def sizes(self) -> list[float]:
        """Samples of each update."""
        return [paced.samples for paced in self.complete if not paced.discarded]

    @property
    def updates(self) -> int:
        """How often the weights were updated."""
        return len(self.sizes)


class Pacer:
    """Adds increments up, and decides with a `Pacing` when they become an update.

    Args:
        rule: decides.
        names: of the L trainable parameters.
        stream: draws the layer to watch.
        mean: whether an update is the mean over its increments, each by its D; else their sum.
        records: N.

    Raises:
        ValueError: no trainable parameter in the layer to watch.
    """

    def __init__(
        self,
        rule: Pacing,
        names: Sequence[str],
        stream: Stream,
        *,
        mean: bool,
        records: int,
    ) -> None:
        self.rule, self._stream, self._mean, self._records = rule, stream, mean, records
        self._layers = layers_of(names, rule.monitor)
        self._rewards = {layer: [1.0] for layer in self._layers}
        self._seen, self._complete = 0.0, list[Paced]()
        self._start()

    def _start(self) -> None:
        self._sum: list[Tensor] = []
        self._divisor = self._samples = 0.0
        self._increments = 0
        self._angles: list[float] = []
        self._layer: str | None = None

    @property
    def pace(self) -> Pace:
        """How far training has come."""
        return Pace(self._seen, tuple(self._complete), tuple(self._angles))

    def take(
        self, grads: Sequence[Tensor], divisor: float, samples: float, rate: float | None
    ) -> bool:
        """Adds an increment; returns True if `grads` now hold what the optimizer steps on.

        Args:
            grads: L gradients, which were divided by `divisor`; written to if True is returned.
            divisor: D; 0 for an increment of nothing, where D is not public.
            samples: that they are of.
            rate: q, with which these were drawn; q N counts then, since it is public. None if
                they were not drawn by Poisson sampling.

        Raises:
            ValueError: the watched layer's gradient is not finite.
            RuntimeError: the layer that was to be watched does not move.
        """
        samples = samples if rate is None else _expected(rate, self._records)
        self._add(grads, divisor)
        self._divisor += divisor if self._mean else 0.0
        self._samples += samples
        self._seen += samples
        full = self.rule.cap is not None and self._samples >= self.rule.cap
        if not (full or self.rule.decide(self._angles)):
            return False
        discarded = bool(self._angles) and self.rule.discards(self._angles[-1])
        if not discarded:
            for grad, total in zip(grads, self._sum, strict=True):
                grad.copy_(total / (self._divisor or 1.0) if self._mean else total)
        self._complete.append(Paced(self._samples, tuple(self._angles), self._layer, discarded))
        self._reward()
        self._start()
        return not discarded

    def _add(self, grads: Sequence[Tensor], divisor: float) -> None:
        """Adds to the sum, and takes the angle that the watched layer turns by."""
        if not self._sum:
            self._sum = [torch.zeros_like(g, dtype=accumulated(g.dtype)) for g in grads]
        if self._layer is not None:
            watched = self._layers[self._layer]
            sums, added = [self._sum[i] for i in watched], [grads[i] for i in watched]
            if (turned := turn(sums, added, divisor)) is not None:
                self._angles.append(turned)
        torch._foreach_add_(self._sum, list(grads), alpha=divisor)
        self._increments += 1
        if self._layer is None:
            self._layer = self._drawn()

    def _drawn(self) -> str | None:
        """Returns a layer to watch, of those whose sum has a direction; None if none has.

        Raises:
            RuntimeError: the user's own has none, others have.
        """
        moved = torch.stack([part.any() for part in self._sum]).tolist()
        known = [name for name, held in self._layers.items() if any(moved[i] for i in held)]
        if not known:
            if self.rule.cap is None and self._increments >= _STILL and any(moved):
                raise RuntimeError(
                    f"by_angle(monitor={self.rule.monitor!r}): the gradient of this layer was zero "
                    f"in {self._increments} increments, so it has no angle and no update would "
                    "ever be complete. Name a layer that learns, or none, or give a cap."
                )
            return None
        means = [sum(self._rewards[name]) / len(self._rewards[name]) for name in known]
        reached = torch.softmax(torch.tensor(means, dtype=torch.float64), 0).cumsum(0)
        return known[min(int((reached < self._stream.uniform(1)).sum()), len(known) - 1)]

    def _reward(self) -> None:
        """Notes how much the angle has fluctuated: layers where it does are watched more often."""
        if self._layer is not None and self._angles and max(self._angles) > 0:
            most = max(self._angles)
            rewards = [*self._rewards[self._layer], (most - min(self._angles)) / most]
            self._rewards[self._layer] = rewards[-_REMEMBERED:]

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint needs: tensors and plain values."""
        return {
            "sum": [part.clone() for part in self._sum],
            "divisor": self._divisor,
            "samples": self._samples,
            "increments": self._increments,
            "angles": list(self._angles),
            "layer": self._layer,
            "rewards": {layer: list(rewards) for layer, rewards in self._rewards.items()},
            "seen": self._seen,
            "complete": [tuple(paced) for paced in self._complete],
        }

    def check(self, state: dict[str, Any]) -> None:
        """Looks at a `state()` before anything is changed.

        Raises:
            ValueError: it is of a model with other layers.
        """
        if list(state["rewards"]) != list(self._layers):
            raise ValueError(
                f"The state has angles of the layers {', '.join(state['rewards'])}, the model has "
                f"{', '.join(self._layers)}. Load it for the model that it was saved of."
            )

    def go_on(self, state: dict[str, Any]) -> None:
        """Continues from a `state()` that was checked."""
        self._sum = [part.clone() for part in state["sum"]]
        self._divisor, self._samples = float(state["divisor"]), float(state["samples"])
        self._increments = int(state["increments"])
        self._angles, self._layer = list(state["angles"]), state["layer"]
        self._rewards = {layer: list(state["rewards"][layer]) for layer in self._layers}
        self._seen = float(state["seen"])
        self._complete = [Paced(n, tuple(a), layer, d) for n, a, layer, d in state["complete"]]


def layers_of(names: Sequence[str], monitor: str | None) -> dict[str, list[int]]:
    """Returns layer -> numbers of its parameters: a module with its own, or the one to watch.

    Raises:
        ValueError: no parameter in the layer to watch.
    """
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        module = name.rpartition(".")[0]
        if monitor is None:
            layers.setdefault(module or name, []).append(i)
        elif not monitor or f"{name}.".startswith(f"{monitor}."):
            layers.setdefault(monitor, []).append(i)
    if not layers:
        raise ValueError(
            f"by_angle(monitor={monitor!r}): no trainable parameter has a name that begins so. "
            f"Expected the name of a module or parameter such as {names[0]!r}."
        )
    return layers


def turn(sums: Sequence[Tensor], added: Sequence[Tensor], scale: float = 1.0) -> float | None:
    """Returns by how many degrees a vector turns when another is added to it.

    It is 90 if the vector was zero or becomes it, and None if the other is zero.

    Args:
        sums: the vector, in parts of any shapes.
        added: the other, in parts of the same shapes.
        scale: what `added` is multiplied by.

    Raises:
        ValueError: numbers that are not finite.
    """
    products = torch.zeros(4, dtype=torch.float64, device=sums[0].device)
    for whole, other in zip(sums, added, strict=True):
        pieces = (part.flatten().split(_AT_ONCE) for part in (whole, other))
        for a, g in zip(*pieces, strict=True):
            before, more = a.double(), g.double()
            after = before.add(more, alpha=scale)
            products += torch.stack([before @ before, after @ after, before @ after, more @ more])
    aa, bb, ab, gg = products.tolist()
    if not (math.isfinite(aa) and math.isfinite(bb)):
        raise ValueError(
            "The gradient that was added up is not finite, so it has no direction. Lower the "
            "learning rate, or clip the groups."
        )
    if gg == 0:
        return None
    cosine = ab / (math.sqrt(aa) * math.sqrt(bb)) if aa > 0 and bb > 0 else 0.0
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def _expected(rate: float, records: int) -> float:
    """Returns q N, as the whole number that it is for a batch size: 12 and not 11.99... fill 12."""
    expected = rate * records
    whole = round(expected)
    return float(whole) if math.isclose(expected, whole, rel_tol=1e-9) else expected
