"""The public face: make a model, an optimizer and a loader private, and say what that means."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dpclip.diagnostics import Diagnostics
from dpclip.engine import Engine
from dpclip.grouping import per_sample
from dpclip.ledger import Ledger, check_accountant, noise_for
from dpclip.loader import GivenBatches, PoissonBatches, PrivateLoader, check_loader, sample_rate
from dpclip.noise import gaussian
from dpclip.plan import plan_table
from dpclip.refusals import check_model, check_noise, check_numbers, warn_by_position
from dpclip.sensitivity import claim
from dpclip.speed import Chooser, Memory
from dpclip.types import Grouping, Noise, Weighting
from dpclip.weighting import clip

_PER_SAMPLE = per_sample()
_GAUSSIAN = gaussian()


class PrivacyEngine:
    """Trains with clipped (and, if asked, noised) group gradients, and accounts for it.

    Args:
        accountant: "prv" (default) or "rdp".
        seed: seeds sampling and noise for experiments; None takes fresh entropy from the system.
        memory: "fast" forms the gradients of all groups of a layer wherever that is quickest;
            "low" keeps what they are made of where that is smaller; a number is the bytes that
            they may take together.
        measure: True times the ways of each layer during the first step and takes the quickest;
            False decides by shapes, so that two runs round alike.
        loop: True runs the model once for each group instead, as autograd would by itself. Good
            for few large groups, and for models that use weights outside of their layers.
        fixed_shape: True pads every physical batch to max_physical_batch with samples that count
            for nothing, so that a compiled model is compiled once.

    The last four change time and memory, and results by rounding only.

    Raises:
        ValueError: an accountant that is not offered, or another kind of memory.
    """

    def __init__(
        self,
        accountant: str = "prv",
        *,
        seed: int | None = None,
        memory: Memory = "fast",
        measure: bool = True,
        loop: bool = False,
        fixed_shape: bool = False,
    ) -> None:
        check_accountant(accountant)
        self._accountant = accountant
        self._chooser, self._loop = Chooser(memory, measure), loop
        self._fixed_shape = fixed_shape
        self._seeds = np.random.SeedSequence(seed)
        self._engine: Engine | None = None

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
        noise: Noise = _GAUSSIAN,
        loss_reduction: str = "mean",
        poisson_sampling: bool = True,
        batch_first: bool = True,
        max_physical_batch: int | None = None,
    ) -> tuple[nn.Module, Optimizer, DataLoader[Any]]:
        """Returns the same model and optimizer, hooked, and a loader that draws the batches.

        After each `loss.backward()`, `p.grad = (1/D) sum_g w_g u_g`; noise is added once, before
        `optimizer.step()`. Spelling and meaning of the arguments are Opacus'.

        Args:
            module: the model, in training mode. It is hooked, not wrapped.
            optimizer: one optimizer over all its trainable parameters.
            data_loader: its batch size is the expected logical batch size.
            noise_multiplier: std of the noise on the sum, in units of its sensitivity. Where no
                sensitivity can be claimed, in units of the bound on one group.
            max_grad_norm: C of `clip(C)`; give this or `weighting`.
            grouping: which samples share a gradient.
            weighting: how much each group counts.
            noise: distribution of the noise.
            loss_reduction: "mean" or "sum", over the samples of a batch.
            poisson_sampling: False keeps the loader's own batches; epsilon is then inf.
            batch_first: False if the batch is the second axis of every input.
            max_physical_batch: largest number of samples in memory; logical batches are split, and
                `optimizer.step()` does nothing until the last part.

        Raises:
            TypeError: a module, optimizer or data set of a kind that cannot be made private.
            ValueError: arguments that do not fit together; the message names the way out.
        """
        if self._engine is not None:
            raise ValueError("This engine already trains a model. Call close(), or make another.")
        check_numbers(
            noise_multiplier, max_grad_norm, weighting, loss_reduction, max_physical_batch
        )
        if self._fixed_shape and (max_physical_batch is None or not poisson_sampling):
            raise ValueError(
                "fixed_shape=True pads Poisson batches to max_physical_batch, which is "
                f"{max_physical_batch} with poisson_sampling={poisson_sampling}. Give a number "
                "and keep Poisson sampling."
            )
        weighting = clip(max_grad_norm) if max_grad_norm is not None else weighting
        assert weighting is not None
        check_model(module, optimizer)
        check_loader(data_loader, grouping)
        shapes = [p.shape for p in module.parameters() if p.requires_grad]
        claimed = claim(grouping.facts, weighting.facts(weighting.init(shapes)))
        check_noise(noise_multiplier, weighting, claimed.noise_scale)
        if noise_multiplier > 0 and grouping.facts.radii is None:
            warnings.warn(warn_by_position(grouping), stacklevel=2)

        records = len(data_loader.dataset)  # type: ignore[arg-type]
        rate = sample_rate(data_loader) if poisson_sampling else None
        divisor = grouping.divisor(rate, records) if rate is not None else None
        device = next(p for p in module.parameters() if p.requires_grad).device
        draws, slots, noises = (_generator(s) for s in self._seeds.spawn(3))
        batches: PoissonBatches | GivenBatches
        if rate is not None:
            unit = grouping.key if grouping.facts.unit == "user" else None
            batches = PoissonBatches(
                records,
                rate,
                len(data_loader),
                grouping,
                divisor,
                max_physical_batch,
                draws,
                unit,
                self._fixed_shape,
            )
        else:
            public = grouping.divisor(1 / len(data_loader), records)
            count = round(public.groups) if public else 0
            batches = GivenBatches(
                data_loader.batch_sampler, grouping, count, max_physical_batch, draws
            )
        engine = Engine(
            module,
            optimizer,
            grouping=grouping,
            weighting=weighting,
            noise=noise,
            noise_multiplier=noise_multiplier,
            loss_reduction=loss_reduction,
            divisor=divisor,
            ledger=Ledger(self._accountant, rate),
            generators=(slots, _moved(noises, device)),
            batch_first=batch_first,
            chooser=self._chooser,
            loop=self._loop,
        )
        self._engine = engine
        self._draws = draws
        return module, optimizer, PrivateLoader(data_loader, batches, engine.expect)

    def make_private_with_epsilon(
        self,
        *,
        module: nn.Module,
        optimizer: Optimizer,
        data_loader: DataLoader[Any],
        target_epsilon: float,
        target_delta: float,
        epochs: int,
        max_grad_norm: float | None = None,
        grouping: Grouping = _PER_SAMPLE,
        weighting: Weighting | None = None,
        noise: Noise = _GAUSSIAN,
        loss_reduction: str = "mean",
        batch_first: bool = True,
        max_physical_batch: int | None = None,
    ) -> tuple[nn.Module, Optimizer, DataLoader[Any]]:
        """Like make_private, with the noise that spends target_epsilon in so many epochs.

        Raises:
            ValueError: as make_private, or a grouping and weighting that support no epsilon.
        """
        check_numbers(0.0, max_grad_norm, weighting, loss_reduction, max_physical_batch)
        rule = clip(max_grad_norm) if max_grad_norm is not None else weighting
        assert rule is not None
        shapes = [p.shape for p in module.parameters() if p.requires_grad]
        claimed = claim(grouping.facts, rule.facts(rule.init(shapes)))
        if claimed.sensitivity is None:
            raise ValueError(
                f"target_epsilon={target_epsilon} cannot be met. {claimed.because} Use "
                'per_sample(), slots="random" or slots="fixed" with a local weighting such as '
                "clip(C)."
            )
        if claimed.count_shift:
            raise ValueError(
                "target_epsilon with a noised quantile is not solved for; choose noise_multiplier "
                "yourself and read get_epsilon."
            )
        check_loader(data_loader, grouping)
        rate, steps = sample_rate(data_loader), epochs * len(data_loader)
        return self.make_private(
            module=module,
            optimizer=optimizer,
            data_loader=data_loader,
            noise_multiplier=noise_for(self._accountant, target_epsilon, target_delta, rate, steps),
            weighting=rule,
            grouping=grouping,
            noise=noise,
            loss_reduction=loss_reduction,
            batch_first=batch_first,
            max_physical_batch=max_physical_batch,
        )

    @property
    def _private(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("Nothing is private yet. Call make_private first.")
        return self._engine

    def get_epsilon(self, delta: float) -> float:
        """Returns the add/remove epsilon spent so far at delta; inf where none may be claimed.

        Raises:
            ValueError: delta outside (0, 1).
        """
        return self._private.ledger.epsilon(delta) if self._claims() else float("inf")

    def _claims(self) -> bool:
        return self._private.claim().sensitivity is not None and not self._why_not()

    def _why_not(self) -> list[str]:
        reasons = list(self._private.ledger.reasons)
        if self._private.noise_multiplier == 0 and "no noise was added" not in reasons:
            reasons.append("no noise was added")
        return reasons

    @property
    def guarantee(self) -> str:
        """One sentence: what is protected and why, or why nothing may be claimed."""
        claimed = self._private.claim()
        if claimed.sensitivity is None:
            return claimed.because
        if reasons := self._why_not():
            return f"No epsilon: {'; '.join(reasons)}."
        ledger = self._private.ledger
        return (
            f"{ledger.mechanism.upper()} accounting, Poisson sampling at q = "
            f"{ledger.sample_rate:.4g}. {claimed.because}"
        )

    def diagnostics(self) -> Diagnostics:
        """Returns raw norms, weights and invalid groups of the last step. They are not private."""
        return self._private.diagnostics()

    def plan(self) -> str:
        """Returns a table: the layers, how each is captured and summed, its time and memory.

        How a layer is summed is decided in the first step.
        """
        units = self._private.hooks.units
        return plan_table(units, self._chooser.made) if units else "the model, once for each group"

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._private.steps

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint needs beside model and optimizer: tensors and plain values."""
        engine = self._private
        return {
            "accountant": engine.ledger.mechanism,
            "history": list(engine.ledger.history),
            "reasons": list(engine.ledger.reasons),
            "steps": engine.steps,
            "plan": self._chooser.formed_by_name(engine.names),
            "weighting": dict(engine.state),
            "generators": [
                g.get_state() for g in (self._draws, engine.slot_generator, engine.noise_generator)
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`, taken between two epochs, after the same make_private.

        Raises:
            ValueError: another accountant wrote the state.
        """
        engine = self._private
        if state["accountant"] != engine.ledger.mechanism:
            raise ValueError(
                f"The state is of accountant {state['accountant']!r}, this engine uses "
                f"{engine.ledger.mechanism!r}. Build PrivacyEngine(accountant=...) alike."
            )
        engine.ledger.history = [(float(s), float(q), int(n)) for s, q, n in state["history"]]
        engine.ledger.reasons = list(state["reasons"])
        engine.steps = int(state["steps"])
        self._chooser.keep(engine.names, state["plan"])
        engine.state = dict(state["weighting"])
        generators = (self._draws, engine.slot_generator, engine.noise_generator)
        for generator, value in zip(generators, state["generators"], strict=True):
            generator.set_state(value)

    def close(self) -> None:
        """Removes every hook; the model and the optimizer are as they were before."""
        self._private.close()
        self._engine = None
        self._chooser.made.clear()


def _generator(seed: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))


def _moved(generator: torch.Generator, device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(generator.initial_seed())
