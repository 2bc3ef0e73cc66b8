"""The engine: group -> norm -> weigh -> sum -> noise, for every method the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpclip.diagnostics import Diagnostics, diagnostics_of, statistics
from dpclip.gathering import Buffers, Gathered
from dpclip.groups import Groups, groups_of
from dpclip.hooks import GroupHooks
from dpclip.ledger import Ledger
from dpclip.looping import GroupLoop
from dpclip.parts import Formed, Part
from dpclip.parts.part import accumulated
from dpclip.passes import Assigned, Forward, OpenGroup, Pass
from dpclip.pieces import Piece
from dpclip.sensitivity import Claim, claim
from dpclip.speed import Chooser
from dpclip.types import Divisor, Grouping, Members, Noise, State, Stats, Weighting


class Engine:
    """Writes `p.grad = (1/D) sum_g w_g u_g` after every backward, and adds noise before a step."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        grouping: Grouping,
        weighting: Weighting,
        noise: Noise,
        noise_multiplier: float,
        loss_reduction: str,
        divisor: Divisor | None,
        ledger: Ledger,
        generators: tuple[torch.Generator, torch.Generator],
        batch_first: bool = True,
        chooser: Chooser | None = None,
        loop: bool = False,
    ) -> None:
        self.grouping, self.weighting, self.noise = grouping, weighting, noise
        self.noise_multiplier = noise_multiplier
        self.mean = loss_reduction == "mean"
        self.divisor = divisor
        self.ledger = ledger
        self.slot_generator, self.noise_generator = generators
        self.names = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.params = list(self.names.values())
        dtypes = [accumulated(p.dtype) for p in self.params]
        self._wide = max(dtypes, key=lambda dtype: dtype.itemsize)
        self._device = self.params[0].device
        self._mixed = len(set(dtypes)) > 1
        self.state: State = weighting.init([p.shape for p in self.params])
        self._state_before = self.state  # at the start of the step, for one that is given up
        self.steps = 0
        self.piece: Piece | None = None
        self._done = 0  # rows of the current piece that went through a backward
        self._pass: Pass | None = None
        self._held: list[Tensor | None] = [None] * len(self.params)
        self._released = list(self._held)  # the gradients of the last step
        self._open = OpenGroup()
        self.chooser = chooser or Chooser()
        self._buffers = Buffers()
        self._shared: set[nn.Parameter] = set()
        self._passes = 0  # backward passes since the last step
        self._divisor = 1.0
        self._stats: list[tuple[Stats, Tensor]] = []
        self.last: list[tuple[Stats, Tensor]] = []
        hooks = GroupLoop if loop else GroupHooks
        self.hooks: GroupHooks | GroupLoop = hooks(module, self, batch_first)
        self._step_hook = optimizer.register_step_pre_hook(self._before_step)

    # ---- from the loader -------------------------------------------------------------------

    def expect(self, piece: Piece) -> None:
        """Called by the loader when it yields: the next rows are these records."""
        if piece.first and self._passes:
            if self.piece is not None and not self.piece.last:
                self._forget()  # an early break left a logical batch unfinished
                self._drop_gradients()
            else:
                self.ledger.void(
                    "a second batch was drawn from the loader before the optimizer step, so a "
                    "record may count twice in one step"
                )
        self.piece, self._done = piece, 0

    def _forget(self) -> None:
        """Drops what the pieces of an unfinished logical batch have added up."""
        self._held = [None] * len(self.params)
        self._open = OpenGroup()
        self._stats, self._passes = [], 0
        self.state = self._state_before

    def _drop_gradients(self) -> None:
        """Begins the sum of a step anew, whoever zeroes gradients."""
        for param in self.params:
            param.grad = None

    # ---- from the hooks --------------------------------------------------------------------

    def begin_forward(self, rows: int) -> Forward:
        """Returns the batch of a forward pass that starts."""
        piece = self.piece
        if piece is not None and rows > len(piece.slots) and self._done == 0:
            raise RuntimeError(
                f"The model got {rows} samples, but the loader yielded {len(piece.slots)}. Train "
                "on the batch as it comes; for evaluation use model.eval() or torch.no_grad()."
            )
        return Forward(rows, piece, torch._C._current_graph_task_id())

    def begin_backward(self, batch: Forward) -> None:
        """Opens the pass of a new backward, or checks that this one is about one batch."""
        task = torch._C._current_graph_task_id()
        if batch.task != -1:
            raise RuntimeError(
                "Re-entrant activation checkpointing is not supported: its backward runs inside "
                "another. Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        if self._pass is not None and self._pass.task == task:
            if not batch.same_batch(self._pass.forward):
                raise RuntimeError(
                    "One backward pass covers forward passes over different batches or parts of "
                    f"one ({self._pass.forward.rows} and {batch.rows} samples). Call backward() "
                    "for each by itself."
                )
            return
        # An exception may have cut an earlier backward short: what it left is dropped here.
        groups, divisor = batch.assigned or self._assign(batch)
        if (doubt := self._doubt(batch)) is not None:
            self.ledger.void(doubt)
        gathered = Gathered(groups.count, self.chooser, self._buffers, self._shared)
        self._pass = Pass(task, batch, groups, divisor, gathered)
        torch.autograd.Variable._execution_engine.queue_callback(self._end_backward)

    def groups(self) -> Groups:
        """Returns the groups of the batch whose backward is running."""
        assert self._pass is not None
        return self._pass.groups

    def collect(self, parts: dict[nn.Parameter, Part]) -> None:
        """Takes the parts of one use of a layer."""
        assert self._pass is not None
        self._pass.gathered.add(parts)

    def defer(self, work: Callable[[], None]) -> None:
        """Keeps work for the end of the backward."""
        assert self._pass is not None
        self._pass.deferred.append(work)

    def groups_ahead(self, batch: Forward) -> Groups:
        """Returns the groups of a forward pass before its backward.

        Raises:
            RuntimeError: only a part of the physical batch goes through the model.
        """
        if batch.piece is not None and batch.rows < len(batch.piece.slots):
            raise RuntimeError(
                f"loop=True runs the model for each group, and got {batch.rows} of the "
                f"{len(batch.piece.slots)} samples that the loader yielded. Pass the whole batch; "
                "for less memory use max_physical_batch."
            )
        batch.assigned = self._assign(batch)
        return batch.assigned.groups

    def _is_next(self, batch: Forward) -> bool:
        """Returns True if the rows of a forward are the next ones of what the loader yielded."""
        piece = batch.piece
        return (
            piece is self.piece and self._done + batch.rows <= len(piece.slots) if piece else False
        )

    def _doubt(self, batch: Forward) -> str | None:
        """Returns why no epsilon may be claimed once these rows went through backward, or None."""
        if batch.piece is None:
            return "a batch did not come from the loader, so its sampling is unknown"
        if not self._is_next(batch):
            return (
                "rows went through backward that the loader had not just yielded, so a record may "
                "count twice in one step"
            )
        return None

    def _assign(self, batch: Forward) -> Assigned:
        """Returns how the B rows fall into groups."""
        piece, rows = batch.piece, batch.rows
        if piece is not None and self._is_next(batch):
            part = slice(self._done, self._done + rows)
            groups = groups_of(piece.slots[part], piece.real[part], self._device)
            return Assigned(groups, self._count(piece))
        if piece is not None and rows == len(piece.slots):  # a second loss on the same records
            return Assigned(groups_of(piece.slots, piece.real, self._device), self._count(piece))
        if self.grouping.needs_ids:
            raise RuntimeError(
                f"{self.grouping.label} needs to know which records are in the batch, and these "
                f"{rows} samples did not come from the loader that make_private returned. Iterate "
                "over that loader, and use each batch once."
            )
        slots = self.grouping.assign(Members(rows, None, 0, self.slot_generator))
        groups = groups_of(slots, None, self._device)
        return Assigned(groups, float(groups.count))

    def _count(self, piece: Piece) -> float:
        """Returns D: the expected number of groups where that is public, else the actual one."""
        return self.divisor.groups if self.divisor else float(max(1, piece.groups))

    # ---- the end of a backward -------------------------------------------------------------

    def _end_backward(self) -> None:
        current = self._pass
        assert current is not None
        for work in current.deferred:
            work()
        self._pass = None
        self._done += current.forward.rows
        if not self._passes:
            self._state_before = self.state
            self._drop_gradients()
        with torch.no_grad():
            self._weigh_and_sum(current)
        self._passes += 1

    def _weigh_and_sum(self, current: Pass) -> None:
        piece, sizes, b = current.forward.piece, current.groups.sizes, current.forward.rows
        gathered, alike = current.gathered, current.groups.equal
        if piece is not None and piece is self.piece and len(sizes):
            goes_on = self._goes_on(piece)
            here = piece.slots[self._done - b : self._done][piece.real[self._done - b : self._done]]
            if self._open.size and len(here) and self._open.slot != int(here[0]):
                self._close_open(piece)  # its other rows were skipped
            if self._open.size or goes_on:
                factor = float(b) if self.mean else 1.0
                rows, sizes = self._open.join(gathered.rows(self.params), sizes, factor)
                if goes_on:
                    rows, sizes = self._open.keep_last(rows, sizes, factor, int(here[-1]))
                    if not len(sizes):
                        return
                gathered = Gathered(len(sizes), self.chooser, self._buffers, self._shared)
                gathered.add({p: Formed(row) for p, row in rows.items()})
                alike = None
        self._weigh(gathered, sizes, alike, b, current.divisor)

    def _close_open(self, piece: Piece) -> None:
        """Counts the group that was kept open as it is."""
        rows, sizes = self._open.take()
        gathered = Gathered(len(sizes), self.chooser, self._buffers, self._shared)
        gathered.add({p: Formed(row) for p, row in rows.items()})
        self._weigh(gathered, sizes, None, 1, self._count(piece))

    def _goes_on(self, piece: Piece) -> bool:
        """Returns True if the last group of this backward has rows still to come."""
        last, after = self._done - 1, self._done
        if after < len(piece.slots):
            real = bool(piece.real[last]) and bool(piece.real[after])
            return real and bool(piece.slots[after] == piece.slots[last])
        return self._done == len(piece.slots) and piece.open

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
        sizes = sizes.to(self._device)
        scale = self._scale(b, sizes, alike)
        squares = [self._none(len(sizes)) if t is None else t[1] for t in taken]
        if self._mixed:
            squares = [s.to(self._wide) for s in squares]
        stats = statistics(squares, scale, sizes, divisor)
        again = bool(self._stats)
        if again and self.weighting.carry is None:
            raise RuntimeError(
                f"{self.weighting.label} looks at all groups of a step at once: one step must be "
                "one backward pass. Put the joint rule last in the chain, or use larger batches."
            )
        weights, state = self.weighting.weigh(stats, self.state)
        # Asking the values costs a look at them, which on a GPU would be a wait.
        some = None if stats.valid.device.type == "cpu" and bool(stats.valid.all()) else stats.valid
        if some is not None:
            weights = weights.masked_fill(~some, 0.0)
        if again and self.weighting.carry is not None:
            self._rescale(self.weighting.carry(self.state, state))
        self.state = state
        self._divisor = divisor if self.mean else 1.0
        parts = [None if t is None else t[0] for t in taken]
        self._add(parts, weights * (scale / self._divisor), some)
        self._stats.append((stats, weights))

    def _none(self, count: int) -> Tensor:
        """Returns the squared norms [G] of a parameter that no gradient came back for."""
        return torch.zeros(count, dtype=self._wide, device=self._device)

    def _scale(self, b: int, sizes: Tensor, alike: int | None) -> Tensor | float:
        """Returns [G] factors that turn summed rows into u_g, or one number for all groups.

        A mean loss divided every sample by B; a group divides by its expected size if that is
        public, else by the samples it holds. Folding both in here costs nothing.
        """
        if not self.mean:
            return 1.0
        size = self.divisor.size if self.divisor is not None else None
        size = alike if size is None else size
        return b / sizes.to(self._wide) if size is None else b / size

    def _add(self, parts: Sequence[Part | None], factors: Tensor, valid: Tensor | None) -> None:
        """Adds the sums of `factors` times rows to p.grad; groups not in `valid` are left out."""
        for layer, (param, part) in enumerate(zip(self.params, parts, strict=True)):
            factor = factors if factors.dim() == 1 else factors[layer]
            total = torch.zeros_like(param) if part is None else part.summed(factor, valid)
            if total.shape != param.shape or total.dtype != param.dtype:
                total = total.view_as(param).to(param.dtype)
            param.grad = total if param.grad is None else param.grad + total

    def _rescale(self, factor: Tensor) -> None:
        """Multiplies what earlier passes of this step have added up."""
        for layer, param in enumerate(self.params):
            by = factor if factor.dim() == 0 else factor[layer]
            for tensor in (param.grad, self._held[layer]):
                if tensor is not None:
                    tensor.mul_(by.to(tensor))

    # ---- the optimizer step ----------------------------------------------------------------

    def claim(self) -> Claim:
        """Returns what the sum of weighted rows supports at the current state."""
        return claim(self.grouping.facts, self.weighting.facts(self.state))

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Adds noise once; on a piece that is not the last, keeps the sum and steps nothing."""
        args, kwargs = _run_closure(args, kwargs)
        self._check_trainable(optimizer)
        if not self._passes:
            # Another step on what was released already reveals nothing new.
            pairs = zip(self.params, self._released, strict=True)
            if any(p.grad is not None and p.grad is not released for p, released in pairs):
                self.ledger.void("a step was taken on gradients that nothing has clipped")
            return args, kwargs
        if self.piece is not None and not self.piece.last:
            for i, param in enumerate(self.params):
                self._held[i] = _sum(self._held[i], param.grad)
                param.grad = None  # optimizers skip parameters without a gradient
            return args, kwargs
        with torch.no_grad():
            if self._open.size:  # a slice ended inside a group, and the rest never came
                assert self.piece is not None
                self._close_open(self.piece)
            for i, param in enumerate(self.params):
                total = _sum(self._held[i], param.grad)
                param.grad = torch.zeros_like(param) if total is None else total
            self._add_noise()
        self._charge()
        state = self.weighting.finish(self.state, self.noise_generator)
        self.last = self._stats
        self._released = [param.grad for param in self.params]
        self._forget()
        self.state = state
        self.steps += 1
        return args, kwargs

    def _check_trainable(self, optimizer: Optimizer) -> None:
        """Raises RuntimeError if other parameters would be trained than were made private."""
        now = {p for g in optimizer.param_groups for p in g["params"] if p.requires_grad}
        if now != set(self.params):
            raise RuntimeError(
                f"{len(now ^ set(self.params))} parameters were frozen, unfrozen or added to the "
                "optimizer after make_private. Call close() on the engine and make_private again."
            )

    def _add_noise(self) -> None:
        scale = self.claim().noise_scale
        if self.noise_multiplier == 0 or scale is None:
            return
        std = self.noise_multiplier * scale / self._divisor
        for param in self.params:
            assert param.grad is not None
            param.grad += self.noise.sample(param.grad, std, self.noise_generator)

    def _charge(self) -> None:
        made = self.claim()
        if made.sensitivity is None:
            self.ledger.void(made.because.removeprefix("No epsilon: ").removesuffix("."))
        self.ledger.charge(self.noise_multiplier, made.count_shift)

    def diagnostics(self) -> Diagnostics:
        """Returns the raw statistics of the last step; not private."""
        if not self.last:
            raise RuntimeError("No step was taken yet. Call diagnostics() after optimizer.step().")
        return diagnostics_of(self.last)

    def close(self) -> None:
        """Removes every hook from the model and the optimizer."""
        self._step_hook.remove()
        self._buffers.clear()
        self.hooks.cleanup()


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _run_closure(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Runs a step's closure before the noise is added, and hands its loss on."""
    closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    if "closure" in kwargs:
        return args, {**kwargs, "closure": lambda: loss}
    return (args[0], lambda: loss, *args[2:]), kwargs
