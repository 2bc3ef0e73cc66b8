"""Watching the modules of one model, forward after forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import nn

from dpclip.ops.around import Around, Host, Settles, Watched
from dpclip.ops.releasing import batch_free, expanded_released, folded, released
from dpclip.ops.settling import Findings, Key, Settler
from dpclip.ops.trial import Noted, Nothing, Recorder, findings, run_once
from dpclip.ops.watch import Watch


class Begun(NamedTuple):
    """How a call of a captured module has begun.

    Attributes:
        args, kwargs: what it gets; what is made of parameters alone may have got the batch's axis.
        watched: whether its operations are watched, so that its inputs and outputs need not be.
    """

    args: Any
    kwargs: Any
    watched: bool


class _Call(NamedTuple):
    """A call that runs, and what its end brings.

    Attributes:
        watched: its operations are.
        stops: its end stops the watch.
        resumes: its end goes on with a watch that its beginning has stopped.
        outermost: its end is the watch's end.
    """

    watched: bool
    stops: bool = False
    resumes: bool = False
    outermost: bool = False


class Capture:
    """Watches modules, and the whole model where that is needed.

    Args:
        model: the hooked model.
        watched: its modules whose parameters are captured at operations.
        others: its other modules that are captured, by their inputs and outputs.
        declared: the batch axis of the model's inputs.
        unhooked: context in which the hooks do nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        watched: Sequence[Watched],
        others: Sequence[Watched],
        declared: int,
        unhooked: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._model, self._watched, self._others = model, watched, others
        self._declared, self._unhooked = declared, unhooked
        self._root = Watched("", f"the model itself ({type(model).__name__})", model, {})
        self._trainable = {id(p): (n, p) for n, p in model.named_parameters() if p.requires_grad}
        self._settler = Settler(self._ask, declared)
        self._watch: Watch | None = None
        self._calls: list[_Call] = []
        # The first forward tells whether anybody but a watched module itself computes with what
        # it makes of parameters alone.
        self._whole, self._needed = True, False
        self._reset(None, 0)

    def enter(self, call: tuple[Any, Any], rows: int, host: Host) -> None:
        """Begins a forward of the whole model on (args, kwargs) with B samples."""
        self.abandon()
        self._reset(call, rows)
        if self._whole:
            self._open(self._root, rows, self._settler, host)

    def leave(self, output: Any) -> Any:
        """Ends it, and returns what the model returned; None after an exception."""
        if output is None:
            self.abandon()
        else:
            output = self.end(output) if self._calls else output
            self._whole = self._needed
        self._reset(None, 0)
        return output

    def begin(
        self, unit: Watched, always: bool, args: Any, kwargs: Any, rows: int, host: Host
    ) -> Begun:
        """Begins a call of a captured module.

        Args:
            unit: the module.
            always: whether its operations are what is captured. Another's are only if no sample
                has an influence on what it gets, such as positions (what it returns then counts as
                made of its parameters), or if samples have no axis of their own there.
            args: what it gets.
            kwargs: what it gets by name.
            rows: B.
            host: the hooks.
        """
        return self._begin(unit, always, args, kwargs, rows, self._settler, host)

    def end(self, output: Any) -> Any:
        """Ends the call that began last, and returns the module's output."""
        call, watch = self._calls.pop(), self._watch
        if watch is None:
            return output
        if call.watched:
            watch.end()
            self._needed |= bool(self._calls) and watch.lineage.touches([output])
        if call.stops:
            watch.stop()
        if call.resumes:
            watch.start()
        if call.outermost:
            self._needed |= watch.lineage.strayed
            self._watch = None
            try:
                return released(watch, output, False)
            finally:
                watch.lineage.forget()
        return output

    def abandon(self) -> None:
        """Ends calls whose end was never seen, since they were interrupted."""
        if self._watch is not None:
            self._watch.abandon()
            self._watch.lineage.forget()
        self._watch = None
        self._calls.clear()

    def _reset(self, call: tuple[Any, Any] | None, rows: int) -> None:
        self._call, self._rows = call, rows
        self._turns: Counter[str] = Counter()
        self._fixed: frozenset[int] | None = None
        self._findings: Findings | None = None
        self._constants = 0

    def _begin(
        self,
        unit: Watched,
        always: bool,
        args: Any,
        kwargs: Any,
        rows: int,
        settler: Settles,
        host: Host,
    ) -> Begun:
        watch, watched = self._watch, always
        if watch is not None:
            args, kwargs = watch.lineage.with_aliases((args, kwargs))
            args, kwargs = expanded_released(watch, (args, kwargs))
            if not always:
                watched = batch_free(watch, (args, kwargs))
                self._needed |= watched
        watched = watched or folded(unit.module, args, rows)
        if watched:
            self._open(unit, rows, settler, host)
        else:
            if watch is not None:
                args, kwargs = released(watch, (args, kwargs), True)
            pauses = watch is not None and watch.active and watch.pause()
            self._calls.append(_Call(False, resumes=pauses))
        return Begun(args, kwargs, watched)

    def _open(self, unit: Watched, rows: int, settler: Settles, host: Host) -> None:
        """Begins to watch a module."""
        outermost = self._watch is None
        if self._watch is None:
            strays = self._trainable if self._whole and self._call is not None else {}
            around = Around(rows, self._declared, settler, host, self._ids, strays)
            self._watch = Watch(around)
        starts = not self._watch.active  # for the first time, or inside of a module with a rule
        if starts:
            self._watch.start()
        self._watch.begin(unit, self._turns[unit.name])
        self._turns[unit.name] += 1
        self._calls.append(_Call(True, stops=starts, outermost=outermost))

    def _ids(self) -> Collection[int]:
        """Returns the ids of what is alike for all samples before anything is computed."""
        if self._fixed is None:
            frozen = (p for p in self._model.parameters() if not p.requires_grad)
            self._fixed = frozenset(map(id, [*frozen, *self._model.buffers()]))
        return self._fixed

    # ---- trials ----------------------------------------------------------------------------

    def _ask(self) -> Findings | None:
        """Returns what a trial of the running forward says; None if there can be none."""
        if self._call is None:
            return None
        if self._findings is None or self._constants != self._settler.constants:
            # What is known to be constant changes what operations there are.
            self._constants = self._settler.constants
            self._findings = self._tried()
        return self._findings

    def _tried(self) -> Findings:
        outer = self._watch, self._calls, self._turns, self._needed
        if self._watch is not None:
            self._watch.awake = False
        try:
            with self._unhooked():
                return findings(self._run, self._call, self._rows, self._declared)
        except Exception:  # a model may not want to be run again; then sizes must be enough
            return {}
        finally:
            self._watch, self._calls, self._turns, self._needed = outer
            if self._watch is not None:
                self._watch.awake = True

    def _run(self, call: tuple[Any, Any], rows: int) -> dict[Key, Noted]:
        """Runs the model once more, and returns the tensors of its operations on parameters."""
        self._watch, self._calls, self._turns = None, [], Counter()
        recorder, host = Recorder(self._settler.constant), Nothing()

        def before(unit: Watched, always: bool) -> Callable[..., Any]:
            def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
                return self._begin(unit, always, args, kwargs, rows, recorder, host)[:2]

            return hook

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            return self.end(output)

        handles = []
        for unit, always in [(u, True) for u in self._watched] + [(u, False) for u in self._others]:
            hook = before(unit, always)
            handles.append(unit.module.register_forward_pre_hook(hook, with_kwargs=True))
            handles.append(unit.module.register_forward_hook(after, always_call=True))
        if self._whole:
            self._open(self._root, rows, recorder, host)
        try:
            run_once(self._model, call)
        finally:
            for handle in handles:
                handle.remove()
            self.abandon()
        return recorder.met
