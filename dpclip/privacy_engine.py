"""The public face: make a model, an optimizer and a loader private, and say what that means."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dpclip.accounting.solving import noise_for
from dpclip.accounting.spending import check_accountant
from dpclip.budgets import Budget
from dpclip.diagnostics import Diagnostics
from dpclip.doctor import Report, examine
from dpclip.engine import Engine
from dpclip.grouping import per_sample
from dpclip.ledger import HALF, NOT_POISSON, Ledger
from dpclip.limits import Lengths, limits
from dpclip.loader import PrivateLoader, batches_of, check_loader, sample_rate
from dpclip.mechanism import Mechanism
from dpclip.noise import gaussian
from dpclip.pacer import Pace, Pacer
from dpclip.plan import plan_table
from dpclip.promises import check
from dpclip.ranks import Ranks
from dpclip.refusals import (
    check_features,
    check_model,
    check_noise,
    check_numbers,
    check_pacing,
    check_rows,
    check_sigma,
    warn_by_position,
)
from dpclip.secure import KEY_BYTES
from dpclip.secure import secure as secure_streams
from dpclip.sensitivity import claim
from dpclip.speed import Chooser, Memory
from dpclip.streams import Streams, seeded
from dpclip.types import ExtraGroups, Grouping, Noise, Pacing, Weighting, WeightingFacts
from dpclip.weighting import clip
from dpclip.wrapped import ranks_for, silence, unwrapped
from dpclip.yielded import Yielded

_NOTHING = "Nothing is private yet. Call make_private first."
_PER_SAMPLE = per_sample()
_GAUSSIAN = gaussian()


class PrivacyEngine:
    """Trains with clipped (and, if asked, noised) group gradients, and accounts for it.

    Args:
        accountant: "prv" (default) or "rdp".
        seed: seeds sampling and noise, so that an experiment can be repeated; None takes fresh
            entropy from the system.
        budget: what may be spent (see `dpclip.budget` and `dpclip.step_budget`); the loader ends
            before a step that would spend more.
        secure: True draws batches and noise from a cryptographic generator, for a release that
            must withstand an adversary. Such a run cannot be repeated.
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
        ValueError: an accountant that is not offered, another kind of memory, or a seed for secure
            randomness.
    """

    def __init__(
        self,
        accountant: str = "prv",
        *,
        budget: Budget | None = None,
        seed: int | None = None,
        secure: bool = False,
        memory: Memory = "fast",
        measure: bool = True,
        loop: bool = False,
        fixed_shape: bool = False,
    ) -> None:
        check_accountant(accountant)
        self._ledger = Ledger(accountant)
        self._budget = budget
        self._chooser, self._loop = Chooser(memory, measure), loop
        self._fixed_shape = fixed_shape
        if secure and seed is not None:
            raise ValueError(
                f"secure=True with seed={seed}: randomness that can be repeated is not secure. "
                "Leave one of the two out."
            )
        self._seed, self._secure = seed, secure
        self._engine: Engine | None = None
        self._phase = 0  # how many models, or the same one again, were made private before

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
            pacing: when the optimizer steps, e.g. `by_angle()`; None steps on every batch.
            noise: distribution of the noise.
            loss_reduction: "mean" or "sum", over the samples of a batch.
            poisson_sampling: False keeps the loader's own batches; epsilon is then inf.
            batch_first: False if the batch is the second axis of every input.
            max_physical_batch: largest number of samples in memory; logical batches are split, and
                `optimizer.step()` does nothing until the last part.
            max_physical_size: largest number of samples times the length of the longest of them,
                in units of `lengths`, e.g. padded frames; alone or beside max_physical_batch.
            lengths: [N] length of each record, by data set index. Each logical batch is drawn as
                without them, and its groups are the same; only then are they sorted by length and
                cut, so that little is padded. What a record gives must not depend on how far it
                is padded (masks, norms over its own frames): `doctor` tries that.

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
        if self._fixed_shape and max_physical_size is not None:
            raise ValueError(
                "fixed_shape=True pads every physical batch to max_physical_batch samples, so "
                f"their size cannot be kept below max_physical_size={max_physical_size}. Leave "
                "one of the two out."
            )
        rule = clip(max_grad_norm) if max_grad_norm is not None else weighting
        assert rule is not None
        inner = unwrapped(module)
        check_model(inner, optimizer)
        check_loader(data_loader, grouping)
        records = len(data_loader.dataset)  # type: ignore[arg-type]
        within = limits(max_physical_batch, max_physical_size, lengths, records)
        facts = _facts(inner, rule)
        check_noise(noise_multiplier, rule, facts.bound)
        check_rows(grouping, rule)
        check(rule, _shapes(inner))
        if noise_multiplier > 0 and grouping.facts.radii is None:
            warnings.warn(warn_by_position(grouping), stacklevel=2)

        like = next(p for p in inner.parameters() if p.requires_grad)
        ranks = ranks_for(grouping, facts, like)
        several = ranks is not None
        check_features(grouping, several=several, limits=within, loop=self._loop)
        check_pacing(pacing, several=several)
        streams = self._streams(ranks, like.device)
        rate = sample_rate(data_loader) if poisson_sampling else None
        batches = batches_of(
            data_loader,
            grouping,
            rate,
            streams.draws,
            limits=within,
            fixed=self._fixed_shape,
            share=(ranks.rank, ranks.count) if ranks else (0, 1),
        )
        if ranks is not None:
            ranks.agree(
                {
                    "the number of records": records,
                    "the batches of an epoch": len(data_loader),
                    "the sampling rate": -1.0 if rate is None else rate,
                    "noise_multiplier": noise_multiplier,
                    "the bound on a group": -1.0 if facts.bound is None else facts.bound,
                }
            )
            ranks.start_alike([*inner.parameters(), *inner.buffers()])
        if rate is None:
            self._ledger.void(NOT_POISSON)
        if any(p.requires_grad and p.dtype.itemsize < 4 for p in inner.parameters()):
            self._ledger.void(HALF)
        engine = Engine(
            inner,
            optimizer,
            mechanism=Mechanism(
                grouping.facts,
                rule,
                noise,
                noise_multiplier,
                streams.noise,
                self._ledger,
                self._budget,
            ),
            yielded=Yielded(
                grouping, grouping.divisor(rate, records) if rate else None, streams.loose, like
            ),
            mean=loss_reduction == "mean",
            batch_first=batch_first,
            chooser=self._chooser,
            loop=self._loop,
            ranks=ranks,
        )
        if pacing is not None:
            engine.pacer = Pacer(
                pacing,
                list(engine.names),
                streams.loose,
                mean=engine.mean,
                records=records,
            )
        self._engine, self._batches, self._streams_made = engine, batches, streams
        self._rate = rate
        self._phase += 1
        self._unsilence = silence(module)
        self._source = data_loader
        private = PrivateLoader(
            data_loader, batches, engine.expect, streams.workers, engine.affords
        )
        return module, optimizer, private

    def _streams(self, ranks: Ranks | None, device: torch.device) -> Streams:
        """Returns the streams of this engine, the same on all ranks, other ones in each phase."""
        if ranks is not None:
            ranks.agree(
                {"secure": float(self._secure), "a seed was given": float(self._seed is not None)}
            )
        if self._secure:
            key = secrets.token_bytes(KEY_BYTES)
            return secure_streams(key if ranks is None else ranks.same_bytes(key))
        if ranks is None:
            return seeded(self._seed, device, self._phase)
        if self._seed is not None:
            ranks.agree({"the seed": float(self._seed)})
            return seeded(self._seed, device, self._phase)
        return seeded(int.from_bytes(ranks.same_bytes(secrets.token_bytes(16))), device)

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
        pacing: Pacing | None = None,
        noise: Noise = _GAUSSIAN,
        loss_reduction: str = "mean",
        batch_first: bool = True,
        max_physical_batch: int | None = None,
        max_physical_size: int | None = None,
        lengths: Lengths | None = None,
    ) -> tuple[nn.Module, Optimizer, DataLoader[Any]]:
        """Like make_private, with the noise that spends target_epsilon in so many epochs.

        Raises:
            ValueError: as make_private, or a grouping and weighting that support no epsilon.
        """
        check_numbers(0.0, max_grad_norm, weighting, loss_reduction, max_physical_batch)
        rule = clip(max_grad_norm) if max_grad_norm is not None else weighting
        assert rule is not None
        claimed = claim(grouping.facts, _facts(unwrapped(module), rule))
        if claimed.sensitivity is None:
            raise ValueError(
                f"target_epsilon={target_epsilon} cannot be met: {claimed.because}. Use "
                'per_sample(), slots="random" or slots="fixed" with a local weighting such as '
                "clip(C)."
            )
        check_loader(data_loader, grouping)
        rate, steps = sample_rate(data_loader), epochs * len(data_loader)
        return self.make_private(
            module=module,
            optimizer=optimizer,
            data_loader=data_loader,
            noise_multiplier=noise_for(
                self._ledger.mechanism,
                target_epsilon,
                target_delta,
                rate,
                steps,
                claimed.count_shift,
            ),
            weighting=rule,
            pacing=pacing,
            grouping=grouping,
            noise=noise,
            loss_reduction=loss_reduction,
            batch_first=batch_first,
            max_physical_batch=max_physical_batch,
            max_physical_size=max_physical_size,
            lengths=lengths,
        )

    @property
    def _private(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(_NOTHING)
        return self._engine

    def get_epsilon(self, delta: float) -> float:
        """Returns the add/remove epsilon spent so far at delta; inf where none may be claimed.

        With a budget, and steps that depend on what was released before, this counts the steps
        taken; what is proved then is the budget's own epsilon and delta.

        Phases of training add up: after `close()` this can still be asked, and another
        `make_private`, e.g. with larger batches, goes on with the same account.

        Raises:
            ValueError: delta outside (0, 1).
        """
        engine = self._engine
        if engine is None and not self._ledger.history:
            raise RuntimeError(_NOTHING)
        if engine is not None and engine.why_not():
            return float("inf")
        return self._ledger.epsilon(delta)

    @property
    def guarantee(self) -> str:
        """One sentence: what is protected and why, or why nothing may be claimed."""
        joined = self._private.extras.told
        if reasons := self._private.why_not():
            return f"No epsilon: {'; '.join(reasons)}{joined}."
        planned = f"Poisson sampling at q = {self._rate:.4g}"
        drawn = self._ledger.sampling if self._ledger.history else planned
        draws = "secure randomness" if self._secure else "randomness from a seed, for experiments"
        if (pacer := self._private.pacer) is not None:
            joined = f"; {pacer.rule.label} reads what was released only{joined}"
        limit = f"; {self._budget.because}{joined}" if self._budget else joined
        return (
            f"{self._ledger.accounting}, {drawn}, {draws}: {self._private.claim().because}{limit}."
        )

    def plant(self, groups: ExtraGroups) -> None:
        """Lets groups of an audit join every step, after the weighting and before the noise.

        Call it after make_private. Batches and noise stay what they are without them, and so does
        epsilon; the model is trained on the groups as well, so plant them in audits only. The
        engine does not keep them in a checkpoint: plant them again after a resume.

        Args:
            groups: e.g. `canaries.dirac(...)`.

        Raises:
            ValueError: groups that do not fit the model, parameters of half precision, or a
                training over several ranks.
            RuntimeError: before make_private, in the middle of a step, or a second time.
        """
        self._private.plant(groups)

    def doctor(self, loss: Callable[[Any], Tensor] | None = None, records: int = 4) -> Report:
        """Returns what is not as the claim assumes; what voids it makes epsilon inf.

        Call it after the first step, on every rank if there are several. It does not disturb
        training.

        Args:
            loss: batch -> scalar loss, exactly as in training: a few records are tried alone and
                together, and their gradients must not change. None leaves that out.
            records: how many are tried.

        Raises:
            RuntimeError: before the first step.
            ValueError: fewer than 2 records, or a loss that is not one number.
        """
        return examine(self._private, self._source, loss, records)

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
    def noise_multiplier(self) -> float:
        """Sigma; set it between two steps to change the noise from there on."""
        return self._private.mechanism.noise_multiplier

    @noise_multiplier.setter
    def noise_multiplier(self, value: float) -> None:
        engine = self._private
        check_sigma(value)
        check_noise(value, engine.weighting, engine.claim().noise_scale)
        engine.mechanism.noise_multiplier = value

    @property
    def weighting(self) -> Weighting:
        """The rule; set it between two steps to change it from there on, e.g. to another clip(C).

        The noise follows its bound.
        """
        return self._private.weighting

    @weighting.setter
    def weighting(self, rule: Weighting) -> None:
        engine = self._private
        shapes = [p.shape for p in engine.params]
        check_rows(engine.yielded.grouping, rule)
        check_noise(engine.mechanism.noise_multiplier, rule, rule.facts(rule.init(shapes)).bound)
        check(rule, shapes)
        engine.reweigh(rule)

    @property
    def steps(self) -> int:
        """Optimizer steps taken; with pacing, increments, each of which is charged as a step."""
        return self._private.steps

    @property
    def updated(self) -> bool:
        """Whether the last `optimizer.step()` updated the weights.

        It does not on parts of a batch (max_physical_batch), nor while pacing adds batches up or
        throws a sum away. A schedule by update steps where this is True.
        """
        return self._private.updated

    @property
    def pace(self) -> Pace:
        """Batch sizes and angles so far, for a training with pacing.

        Raises:
            RuntimeError: a training without.
        """
        if (pacer := self._private.pacer) is None:
            raise RuntimeError("Every step is one batch. Give make_private(pacing=by_angle()).")
        return pacer.pace

    def observe(self, loss: float | Tensor) -> None:
        """Tells the weighting the loss of a batch; call it before `backward()`.

        Only `scarcity(length=dynamic(...))` reads it; other weightings ignore it.

        Args:
            loss: one number.

        Raises:
            ValueError: a tensor of more than one number.
        """
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                raise ValueError(f"observe(loss): got {tuple(loss.shape)}, expected one number.")
            loss = loss.detach()
        self._private.observe(float(loss))

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint needs beside model and optimizer: tensors and plain values."""
        engine = self._private
        paced = {} if engine.pacer is None else {"pacing": engine.pacer.state()}
        return paced | {
            "accountant": self._ledger.mechanism,
            "secure": self._secure,
            "history": list(self._ledger.history),
            "reasons": list(self._ledger.reasons),
            "steps": engine.steps,
            "phase": self._phase,
            "plan": self._chooser.formed_by_name(engine.names),
            "shared": engine.shared(),
            "weighting": dict(engine.state),
            "position": self._batches.position(engine.following()),
            "noise": self._streams_made.noise.state(),
            "loose": self._streams_made.loose.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`, after the same make_private.

        The loader's next iteration goes on with the logical batch after the last step, and ends
        with its epoch.

        Raises:
            ValueError: the state is of another accountant, another kind of randomness, or a run
                with other pacing.
            RuntimeError: steps were taken already.
        """
        engine = self._private
        if state["secure"] != self._secure:
            raise ValueError(
                f"The state is of a run with secure={state['secure']}, this engine has "
                f"secure={self._secure}. Build PrivacyEngine(secure=...) alike."
            )
        if state["accountant"] != self._ledger.mechanism:
            raise ValueError(
                f"The state is of accountant {state['accountant']!r}, this engine uses "
                f"{self._ledger.mechanism!r}. Build PrivacyEngine(accountant=...) alike."
            )
        if ("pacing" in state) != (engine.pacer is not None):
            raise ValueError(
                f"The state is of a run with{'' if 'pacing' in state else 'out'} pacing, this one "
                "is another. Call make_private(pacing=...) alike."
            )
        if engine.pacer is not None:
            engine.pacer.check(state["pacing"])
        following = int(state["position"]["batch"])
        engine.go_on(int(state["steps"]), dict(state["weighting"]), following, state["shared"])
        if engine.pacer is not None:
            engine.pacer.go_on(state["pacing"])
        self._ledger.history = [(float(s), float(q), int(n)) for s, q, n in state["history"]]
        for reason in state["reasons"]:
            self._ledger.void(reason)
        self._phase = int(state["phase"])
        self._chooser.keep(engine.names, state["plan"])
        self._batches.resume(state["position"])
        for name in ("noise", "loose"):
            if state[name] is not None:
                getattr(self._streams_made, name).restore(state[name])

    def close(self) -> None:
        """Removes every hook; the model and the optimizer are as they were before."""
        self._private.close()
        self._unsilence()
        self._engine = None
        self._chooser.made.clear()


def _facts(module: nn.Module, weighting: Weighting) -> WeightingFacts:
    """Returns what a weighting promises for a model, before anything is trained."""
    return weighting.facts(weighting.init(_shapes(module)))


def _shapes(module: nn.Module) -> list[torch.Size]:
    return [p.shape for p in module.parameters() if p.requires_grad]
