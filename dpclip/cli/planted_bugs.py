"""Engines with canaries in them and one known bug each: what an audit must be able to catch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from audits.self_test import Claim, Finder, Observed
from canaries import GradientCanaries, dirac, stream
from dpclip.engine import Engine
from dpclip.grouping import by_key, per_sample
from dpclip.limits import Lengths
from dpclip.loader import sample_rate
from dpclip.noise import gaussian
from dpclip.privacy_engine import PrivacyEngine
from dpclip.types import Grouping, Noise, Pacing, Stream, Weighting
from dpclip.weighting import uniform

_BESIDE = 1000  # coordinates on which noise is looked at
_LEAST = 100
_PER_SAMPLE = per_sample()
_GAUSSIAN = gaussian()


@dataclass(frozen=True)
class Bug:
    """What is wrong with an engine.

    Attributes:
        name: of it.
        found_by: what must catch it.
        noise: (noise, expected batch, trainable parameters) -> what is really added.
        grouping: what is really used.
        after: done to the engine once it is made.
    """

    name: str
    found_by: Finder
    noise: Callable[[Noise, float, int], Noise] = lambda noise, _batch, _parameters: noise
    grouping: Callable[[Grouping], Grouping] = lambda grouping: grouping
    after: Callable[[Engine], None] = lambda _: None


def _quieter(noise: Noise, by: float) -> Noise:
    def sample(like: Tensor, std: float, source: Stream) -> Tensor:
        return noise.sample(like, std / by, source)

    return Noise(noise.label, sample)


def _silent(noise: Noise) -> Noise:
    return Noise(noise.label, lambda like, _std, _source: torch.zeros_like(like))


def _stale(noise: Noise, parameters: int) -> Noise:
    """Returns noise whose numbers of the first step come back in every step."""
    first: list[Tensor] = []
    calls = 0

    def sample(like: Tensor, std: float, source: Stream) -> Tensor:
        nonlocal calls
        if calls < parameters:
            first.append(noise.sample(like, std, source))
        calls += 1
        return first[(calls - 1) % parameters]

    return Noise(noise.label, sample)


def _unclip(engine: Engine) -> None:
    """Lets the weighting promise its bound and weigh every group with 1."""
    engine.reweigh(dataclasses.replace(engine.weighting, weigh=uniform().weigh))


def _in_groups(grouping: Grouping) -> Grouping:
    if grouping.facts.radii == 2:
        return grouping
    return by_key(_pair)


def _pair(index: int) -> int:
    return index // 2


def _claim_one_radius(engine: Engine) -> None:
    """Makes noise for C where one record moves the sum by 2 C."""
    engine.mechanism.facts = engine.mechanism.facts._replace(radii=1.0)


NONE = Bug("none", "nothing")
BUGS = (
    NONE,
    Bug("no clipping", "bound", after=_unclip),
    Bug("no noise", "bound", noise=lambda noise, _batch, _parameters: _silent(noise)),
    Bug(
        "noise / sqrt(8)",
        "bound",
        noise=lambda noise, _batch, _parameters: _quieter(noise, math.sqrt(8)),
    ),
    Bug(
        "noise / batch size",
        "bound",
        noise=lambda noise, batch, _parameters: _quieter(noise, batch),
    ),
    Bug("groups claimed with C, not 2 C", "bound", grouping=_in_groups, after=_claim_one_radius),
    Bug(
        "the same noise in every step",
        "noise",
        noise=lambda noise, _batch, parameters: _stale(noise, parameters),
    ),
)


class Planted(PrivacyEngine):
    """An engine with a bug and Dirac canaries, to be used like any other.

    Args:
        bug: what is wrong with it.
        seed: of batches, noise, coins and canaries.
        count: m, how many canaries; the model needs 100 trainable coordinates more.
    """

    def __init__(self, bug: Bug, seed: int, count: int) -> None:
        super().__init__(seed=seed, measure=False)
        self._bug, self._canary_seed, self._count = bug, seed, count
        self.canaries: GradientCanaries | None = None

    def make_private(
        self,
        *,
        module: nn.Module,
        optimizer: Optimizer,
        data_loader: DataLoader[Any],
        noise_multiplier: float,
        max_grad_norm: float | None = None,
        grouping: Grouping = _PER_SAMPLE,
        weighting: Weighting | None = None,
        pacing: Pacing | None = None,
        noise: Noise = _GAUSSIAN,
        loss_reduction: str = "mean",
        poisson_sampling: bool = True,
        batch_first: bool = True,
        max_physical_batch: int | None = None,
        max_physical_size: int | None = None,
        lengths: Lengths | None = None,
    ) -> tuple[nn.Module, Optimizer, DataLoader[Any]]:
        """As `PrivacyEngine.make_private`; then the bug, and the canaries.

        Raises:
            ValueError: as there, or a second training, or a model that is too small.
        """
        if self.canaries is not None:
            raise ValueError("a self-test looks at one training: call make_private once")
        held = [p for p in module.parameters() if p.requires_grad]
        coordinates = sum(p.numel() for p in held)
        if coordinates < self._count + _LEAST:
            raise ValueError(
                f"the model has {coordinates} trainable coordinates; {self._count} canaries and "
                f"{_LEAST} places without one need {self._count + _LEAST}. Test a larger model."
            )
        batch = 1.0
        if poisson_sampling:
            batch = sample_rate(data_loader) * len(data_loader.dataset)  # type: ignore[arg-type]
        made = super().make_private(
            module=module,
            optimizer=optimizer,
            data_loader=data_loader,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            grouping=self._bug.grouping(grouping),
            weighting=weighting,
            pacing=pacing,
            noise=self._bug.noise(noise, batch, len(held)),
            loss_reduction=loss_reduction,
            poisson_sampling=poisson_sampling,
            batch_first=batch_first,
            max_physical_batch=max_physical_batch,
            max_physical_size=max_physical_size,
            lengths=lengths,
        )
        self._bug.after(self._private)
        self.canaries = dirac(
            stream(self._canary_seed, "self-test.coins").integers(0, 2, self._count) == 1,
            coordinates=coordinates,
            seed=self._canary_seed,
            beside=min(_BESIDE, coordinates - self._count),
        )
        self.plant(self.canaries)
        return made

    def claimed(self, delta: float) -> Claim:
        """Returns what the training claims of itself.

        Raises:
            ValueError: it claims nothing, or changed its noise or sampling on the way.
        """
        epsilon = self._ledger.epsilon(delta) if self._ledger.history else math.nan
        if self._ledger.reasons or not math.isfinite(epsilon):
            reasons = "; ".join(self._ledger.reasons) or "no step was taken"
            raise ValueError(f"the loop claims no epsilon, so there is nothing to test: {reasons}")
        if len(self._ledger.history) > 1:
            raise ValueError(
                f"found {len(self._ledger.history)} different noise multipliers or sampling rates "
                "in one training; a self-test needs the same in all steps"
            )
        (sigma, rate, steps), *_ = self._ledger.history
        return Claim(epsilon, rate, sigma, steps)


class Factory:
    """Makes the one engine of one run of a loop, and shows what its canaries saw.

    Args:
        bug: of the engine.
        seed: of everything random in it.
        count: m.
        delta: at which the loop claims its epsilon.
    """

    def __init__(self, bug: Bug, seed: int, count: int, delta: float) -> None:
        self._bug, self._seed, self._count, self._delta = bug, seed, count, delta
        self._made: list[Planted] = []

    def __call__(self) -> Planted:
        """Returns a new engine."""
        self._made.append(Planted(self._bug, self._seed, self._count))
        return self._made[-1]

    def observed(self, updates: NDArray[np.float64]) -> Observed:
        """Returns what canaries saw of updates [T, d].

        Raises:
            ValueError: not one engine, no training, no claim, or updates that do not fit.
        """
        trained = [engine for engine in self._made if engine.canaries is not None]
        if len(trained) != 1:
            raise ValueError(
                f"the loop made {len(self._made)} engines and {len(trained)} trainings private; "
                "call the engine factory once, and make_private of what it returns once"
            )
        engine, canaries = trained[0], trained[0].canaries
        assert canaries is not None
        claim = engine.claimed(self._delta)
        return Observed(
            canaries.ids,
            canaries.coins,
            canaries.observed(updates),
            canaries.beside(updates),
            claim,
        )
