"""The engine: group -> norm -> weigh -> sum -> noise, for every method the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpclip.backward import Backward
from dpclip.closure import closure_run
from dpclip.diagnostics import Diagnostics, diagnostics_of, statistics
from dpclip.extra_groups import Extras, bound_in_force
from dpclip.features import Features
from dpclip.gathering import Buffers, Gathered
from dpclip.hooks import GroupHooks
from dpclip.ledger import HALF
from dpclip.looping import GroupLoop
from dpclip.mechanism import Mechanism
from dpclip.pacer import Pacer
from dpclip.parts import Formed, Part
from dpclip.parts.part import accumulated, row_source
from dpclip.passes import Pass
from dpclip.pieces import Piece
from dpclip.ranks import Ranks
from dpclip.sensitivity import Claim
from dpclip.speed import Chooser
from dpclip.step import Step
from dpclip.sums import Sums
from dpclip.types import ExtraGroups, Moment, State, Stats, Weighting
from dpclip.witness import Witness
from dpclip.yielded import Yielded


class Engine:
    """Writes `p.grad = (1/D) sum_g w_g u_g` after every backward, and adds noise before a step.

    Args:
        module: the model.
        optimizer: whose steps get noise.
        mechanism: weighting, noise and account.
        yielded: what the loader says of the rows.
        mean: whether losses are means over samples.
        batch_first: False if the batch is the second axis.
        chooser: decides how rows are summed.
        loop: whether the model runs once for each group.
        ranks: the other processes, or None if there is one.

    Attributes:
        pacer: adds several batches up for each update, None if every step is one.
        updated: whether the last optimizer step updated the weights.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        mechanism: Mechanism,
        yielded: Yielded,
        mean: bool,
        batch_first: bool = True,
        chooser: Chooser | None = None,
        loop: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.mechanism, self.yielded, self.mean, self.ranks = mechanism, yielded, mean, ranks
        self.names = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.params = list(self.names.values())
        dtypes = [accumulated(p.dtype) for p in self.params]
        self._wide = max(dtypes, key=lambda dtype: dtype.itemsize)
        self._mixed = len(set(dtypes)) > 1
        self.state: State = self._fresh_state(mechanism.weighting)
        self._step = Step(self.state)
        self.steps = 0
        self.stepped = False  # whether a step was taken since the loader began a logical batch
        self._sums = Sums(self.params)
        # On ranks that are groups, a rank weighs once for each batch, when all its rows are there.
        self._across = ranks is not None and yielded.grouping.ranks
        self.chooser = chooser or Chooser()
        self._buffers = Buffers()
        self._shared: set[nn.Parameter] = set()
        self._next = 0  # number of the first logical batch
        self.pacer: Pacer | None = None
        self.updated = False
        self.last: list[tuple[Stats, Tensor]] = []
        self.witness = Witness(self.names)
        self.extras = Extras()
        hooks = GroupLoop if loop else GroupHooks
        backward = Backward(
            yielded, mechanism.ledger, self._gather, self._end_backward, ranks is not None
        )
        self.hooks: GroupHooks | GroupLoop = hooks(module, backward, batch_first)
        if (named := yielded.grouping.features) is not None:
            assert isinstance(self.hooks, GroupHooks)
            yielded.features = Features(module, named, 1 - batch_first, self.hooks.active)
        self._step_hook = optimizer.register_step_pre_hook(self._before_step)

    @property
    def weighting(self) -> Weighting:
        """The rule; may be replaced between two steps."""
        return self.mechanism.weighting

    @property
    def midway(self) -> bool:
        """True between the first backward of a step and the step."""
        return self._step.passes > 0

    def reweigh(self, weighting: Weighting) -> None:
        """Replaces the weighting.

        Raises:
            RuntimeError: in the middle of a step.
        """
        if self.midway:
            raise RuntimeError("The weighting was set between backward() and step(). Set it after.")
        self.mechanism.weighting = weighting
        self.state = self._fresh_state(weighting)
        self._step = Step(self.state)

    def observe(self, loss: float) -> None:
        """Tells the weighting a loss, if it reads any."""
        if self.weighting.observe is not None:
            self.state = self.weighting.observe(self.state, loss)

    def plant(self, groups: ExtraGroups) -> None:
        """Lets groups of an audit join every step from here on.

        Raises:
            ValueError: groups that do not fit the model, or a training that they cannot join.
            RuntimeError: in the middle of a step, or a second time.
        """
        if self.midway:
            raise RuntimeError("Groups were planted between backward() and step(). Plant before.")
        if self.ranks is not None:
            raise ValueError(
                f"{groups.label} cannot join a sum over {self.ranks.count} ranks yet. Audit the "
                "same settings in one process; per_core(n) makes the same groups there."
            )
        self.extras.plant(groups, self.params)

    def _fresh_state(self, weighting: Weighting) -> State:
        return weighting.init([p.shape for p in self.params])

    # ---- from the loader -------------------------------------------------------------------

    def expect(self, piece: Piece, previous: Piece | None = None) -> None:
        """Called by the loader when it yields: the next rows are these records.

        Args:
            piece: the physical batch.
            previous: the one that the same iteration yielded before it.
        """
        before = self.yielded.piece
        if previous is not None and (before is not previous or not self.yielded.done):
            self.mechanism.ledger.void(
                "a batch was drawn before the one before it went through a backward (drawn ahead, "
                "skipped, or by two iterators at once), so it is not known which records the model "
                "sees"
            )
        if not piece.first:
            self._check_whole()
        if piece.first and self._step.passes:
            if before is not None and not before.last:
                self._forget()  # an early break left a logical batch unfinished
                self._sums.drop()
            else:
                if self.ranks is not None:
                    raise RuntimeError(
                        "A second batch was drawn from the loader before the optimizer step. Over "
                        "several ranks, call optimizer.step() once for each batch."
                    )
                self.mechanism.ledger.void(
                    "a second batch was drawn from the loader before the optimizer step, so a "
                    "record may count twice in one step"
                )
        self.yielded.take(piece)
        self.stepped = False

    def affords(self, piece: Piece) -> bool:
        """Returns True if there is budget for the step that this physical batch belongs to."""
        return self.mechanism.affords(self.state, piece.logical.rate)

    def following(self) -> int:
        """Returns the number of the logical batch that is to be trained on next."""
        piece = self.yielded.piece
        return self._next if piece is None else piece.logical.number + int(self.stepped)

    def shared(self) -> list[str]:
        """Returns the names of parameters that were seen to be used more than once."""
        return [name for name, param in self.names.items() if param in self._shared]

    def go_on(self, steps: int, state: State, following: int, shared: Sequence[str]) -> None:
        """Continues a run that was interrupted.

        Args:
            steps: that were taken.
            state: of the weighting.
            following: number of the next logical batch.
            shared: what `shared()` was.

        Raises:
            RuntimeError: steps were taken already, which what is loaded would not know of.
        """
        if self.steps or self._step.passes:
            raise RuntimeError(
                f"A state was loaded after {self.steps} steps of training, which would not be "
                "counted as spent any more. Load it right after make_private."
            )
        self.steps, self.state, self._next = steps, state, following
        self._step = Step(state)
        self._shared.update(self.names[name] for name in shared)

    def _check_whole(self) -> None:
        """Voids the claim if some rows of the physical batch did not go through a backward.

        Where only the first rows are used, the next ones move in when one of them leaves.
        """
        piece, done = self.yielded.piece, self.yielded.done
        if piece is not None and done != len(piece.slots):
            self.mechanism.ledger.void(
                f"{done} rows of a batch of {len(piece.slots)} went through a backward; every row "
                "that the loader yields must, once (for less memory use max_physical_batch)"
            )

    def _forget(self) -> None:
        """Drops what the pieces of an unfinished logical batch have added up."""
        self._sums.forget()
        self.extras.forget()
        self.state = self._step.before
        self._step = Step(self.state)

    # ---- the end of a backward -------------------------------------------------------------

    def _end_backward(self, current: Pass) -> None:
        if self._step.passes:
            self._check_untouched()
        else:
            self._step.before = self.state
            self._sums.drop()
        if not self.witness.complete:
            self.witness.reach(current.gathered.entries)
        self._step.passes += 1
        self._weigh_and_sum(current)
        # Whoever clips p.grad before the step must see the whole sum: clipping is no expansion
        # of it, but clipping each of several parts would be.
        if self._partial():
            self._sums.hold()
        else:
            self._sums.total()
        if self.yielded.complete and (self.ranks is not None or self.extras.groups is not None):
            # From here on p.grad is seen as the sum of the step: extra groups are in it.
            self._join(self._settle())
        if self.mechanism.noise_multiplier > 0:
            self._sums.look()

    def _check_untouched(self) -> None:
        """Voids the claim if somebody has put more into `p.grad` than the engine has."""
        if self.mechanism.noise_multiplier > 0 and self._sums.grown():
            self.mechanism.ledger.void(
                "p.grad was replaced or made longer between backward() and step(), so the noise "
                "does not fit it"
            )

    def _partial(self) -> bool:
        """Returns True if the logical batch goes on in the next physical one."""
        piece = self.yielded.piece
        return piece is not None and not piece.last

    def _weigh_and_sum(self, current: Pass) -> None:
        piece, sizes, b = current.forward.piece, current.groups.sizes, current.forward.rows
        gathered, alike = current.gathered, current.groups.equal
        if piece is not None and piece is self.yielded.piece and len(sizes):
            goes_on = self._across or self.yielded.goes_on()
            here = self.yielded.slots_of_last(b)
            if self._step.open.size and self._step.open.slot != int(here[0]):
                self._weigh_open(piece)  # its other rows were skipped
            if self._step.open.size or goes_on:
                factor = float(b) if self.mean else 1.0
                rows, sizes = self._step.open.join(gathered.rows(self.params), sizes, factor)
                if goes_on:
                    rows, sizes = self._step.open.keep_last(rows, sizes, factor, int(here[-1]))
                    if not len(sizes):
                        return
                gathered = self._gathered(rows, sizes)
                alike = None
        if len(sizes) or not self._across:
            self._weigh(gathered, sizes, alike, b, current.divisor)

    def _gather(self, count: int) -> Gathered:
        return Gathered(count, self.chooser, self._buffers, self._shared)

    def _gathered(self, rows: dict[nn.Parameter, Tensor], sizes: Tensor) -> Gathered:
        gathered = self._gather(len(sizes))
        gathered.add({p: Formed(row) for p, row in rows.items()})
        return gathered

    def _weigh_open(self, piece: Piece) -> None:
        """Weighs the group that was kept open as it is; without one, no group."""
        rows, sizes = self._step.open.take()
        self._weigh(self._gathered(rows, sizes), sizes, None, 1, self.yielded.count(piece))

    def _settle(self) -> list[Tensor]:
        """Returns the sum of the whole step, over all ranks; `p.grad` is that from here on."""
        piece = self.yielded.piece
        if self.ranks is not None and not self._step.settled:
            scale = self.mechanism.std(self.state, 1.0)
            self.ranks.check_step(self.steps, {"std of the noise on the sum": scale})
        if self._step.open.size or (self._across and not self._step.settled):
            assert piece is not None
            self._weigh_open(piece)
        total = self._sums.total()
        if self.ranks is not None and not self._step.settled:
            self.ranks.add(total)
            self._step.settled = True
        return total

    def _join(self, grads: list[Tensor]) -> None:
        """Lets extra groups join the sum of the whole step, once."""
        if self.extras.groups is None:
            return
        piece, state = self.yielded.piece, self.state
        like = torch.empty(0, dtype=self._wide, device=self.params[0].device)
        moment = Moment(
            step=self.steps,
            claimed=self.weighting.facts(state).bound,
            bound=bound_in_force(self.weighting, state, len(self.params), like),
            swings=self.yielded.grouping.facts.radii == 2,
            rate=None if piece is None else piece.logical.rate,
            divisor=self._step.divisor,
        )
        self.extras.join(grads, moment)

    def _weigh(
        self, gathered: Gathered, sizes: Tensor, alike: int | None, b: int, divisor: float
    ) -> None:
        """Adds the weighted groups of a backward over b samples to p.grad.

        Args:
            gathered: the parts.
            sizes: [G].
            alike: the size of all groups, if they are equal.
            b: what a mean loss divided by.
            divisor: D.
        """
        taken = [gathered.taken(p) for p in self.params]
        sizes = sizes.to(self.params[0].device)
        scale = self._scale(b, sizes, alike)
        squares = [self._none(len(sizes)) if t is None else t[1] for t in taken]
        if self._mixed:
            squares = [s.to(self._wide) for s in squares]
        stats = statistics(squares, scale, sizes, divisor)
        mine = slice(None)
        if self._across:
            assert self.ranks is not None
            stats, mine = self.ranks.gather(stats)
        again = bool(self._step.seen)
        if again and self.weighting.carry is None:
            raise RuntimeError(
                f"{self.weighting.label} looks at all groups of a step at once: one step must be "
                "one backward pass. Put the joint rule last in the chain, or use larger batches."
            )
        parts = [None if t is None else t[0] for t in taken]
        if self.weighting.needs == "rows":
            self._update(stats, parts, scale)
            return
        weights, state = self.weighting.weigh(stats, self.state)
        # Asking the values costs a look at them, which on a GPU would be a wait.
        some = None if stats.valid.device.type == "cpu" and bool(stats.valid.all()) else stats.valid
        if some is not None:
            weights = weights.masked_fill(~some, 0.0)
        if again and self.weighting.carry is not None:
            self._sums.rescale(self.weighting.carry(self.state, state))
        self.state = state
        self._step.divisor = divisor if self.mean else 1.0
        some = None if some is None else some[mine]
        self._sums.add(parts, weights[..., mine] * (scale / self._step.divisor), some)
        self._step.seen.append((stats, weights))

    def _update(self, stats: Stats, parts: Sequence[Part | None], scale: Tensor | float) -> None:
        """Adds what the weighting makes of the groups' gradients to p.grad."""
        rows = row_source(parts, self.params, stats.valid, scale)
        update, self.state = self.weighting.weigh(replace(stats, rows=rows), self.state)
        step, before = self._step, self._step.samples
        step.seen.append((stats, torch.full_like(stats.norms, math.nan)))
        if self.mean:
            step.divisor = max(1.0, step.samples)
            self._sums.rescale(torch.tensor(before / step.divisor))
        self._sums.add_update(update / step.divisor)

    def _none(self, count: int) -> Tensor:
        """Returns the squared norms [G] of a parameter that no gradient came back for."""
        return torch.zeros(count, dtype=self._wide, device=self.params[0].device)

    def _scale(self, b: int, sizes: Tensor, alike: int | None) -> Tensor | float:
        """Returns [G] factors that turn summed rows into u_g, or one number for all groups.

        A mean loss divided every sample by B; a group divides by its expected size if that is
        public, else by the samples it holds. Folding both in here costs nothing.
        """
        if self.weighting.needs == "rows":  # means over the samples that are there
            return (b if self.mean else 1.0) / sizes.to(self._wide)
        if not self.mean:
            return 1.0
        public = self.yielded.divisor
        size = public.size if public is not None else None
        size = alike if size is None else size
        return b / sizes.to(self._wide) if size is None else b / size

    # ---- the optimizer step ----------------------------------------------------------------

    def claim(self) -> Claim:
        """Returns what the sum of weighted rows supports at the current state."""
        return self.mechanism.claim(self.state)

    def why_not(self) -> list[str]:
        """Returns the reasons for which nothing may be claimed; none if something may."""
        return self.mechanism.why_not(self.state)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Adds noise once; on a piece that is not the last, keeps the sum and steps nothing."""
        args, kwargs = closure_run(args, kwargs)
        self._check_trainable(optimizer)
        piece = self.yielded.piece
        if not self._step.passes:
            self._check_idle()
        elif self._partial():
            self._sums.drop()
        else:
            with torch.no_grad():
                self._release(piece)
        self.updated = any(param.grad is not None for param in self.params)
        return args, kwargs

    def _release(self, piece: Piece | None) -> None:
        """Makes `p.grad` the noisy sum of the step, and charges for it."""
        self._check_whole()
        self._check_untouched()
        if any(p.dtype.itemsize < 4 for p in self.params):
            self.mechanism.ledger.void(HALF)
        grads = self._settle()
        self._join(grads)
        self.extras.settle()
        std = self.mechanism.std(self.state, self._step.divisor)
        rate = None if piece is None else piece.logical.rate
        self.mechanism.charge(self.state, rate)
        watched = self.witness.std is None  # the first step, also after a resume
        if watched:
            self.witness.begin(std)
        self.mechanism.add_noise(grads, std, self.witness.noise if watched else None)
        self.extras.released(grads)
        if self.pacer is not None:
            samples = self._step.samples
            counted = self.yielded.divisor is None or self.weighting.needs == "rows"
            # A count is 1 at least, so that one may divide by it, also where there was nothing.
            divisor = 0.0 if counted and not samples else self._step.divisor
            if not self.pacer.take(grads, divisor, samples, rate):
                self._sums.drop()
        state = self.weighting.finish(self.state, self.mechanism.stream)
        self.last = self._step.seen
        self._sums.release()
        self._forget()
        self.state = state
        self.steps += 1
        self.stepped = True

    def _check_idle(self) -> None:
        """Looks at a step that no backward came before.

        Raises:
            RuntimeError: the other ranks wait for this one's part of the batch.
        """
        if self.ranks is not None and self.yielded.piece is not None and not self.stepped:
            raise RuntimeError(
                f"Rank {self.ranks.rank} steps without a backward on the batch that the loader "
                "yielded. Every rank must run backward() for each batch, also for one in which it "
                "has no record: the loader then yields a row that counts for nothing."
            )
        # Another step on what was released already reveals nothing new.
        if self._sums.foreign():
            self.mechanism.ledger.void("a step was taken on gradients that nothing has clipped")

    def _check_trainable(self, optimizer: Optimizer) -> None:
        """Raises RuntimeError if other parameters would be trained than were made private."""
        now = {p for g in optimizer.param_groups for p in g["params"] if p.requires_grad}
        if now != set(self.params):
            raise RuntimeError(
                f"{len(now ^ set(self.params))} parameters were frozen, unfrozen or added to the "
                "optimizer after make_private. Call close() on the engine and make_private again."
            )

    def diagnostics(self) -> Diagnostics:
        """Returns the raw statistics of the last step; not private."""
        if not self.last:
            raise RuntimeError("No step was taken yet. Call diagnostics() after optimizer.step().")
        return diagnostics_of(self.last)

    def close(self) -> None:
        """Removes every hook from the model and the optimizer."""
        self._step_hook.remove()
        if self._step.passes:  # whoever steps now must not step on gradients without noise
            self._sums.drop()
        self._buffers.clear()
        if self.yielded.features is not None:
            self.yielded.features.close()
        self.hooks.cleanup()
