"""A tiny engine around `dpclip.ops`, and the twin that it must equal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpclip.anchor import anchored, hookable
from dpclip.groups import Groups, groups_of
from dpclip.layers import rule_for
from dpclip.ops import Capture, Parts, Watched


class Engine:
    """Watches every module that holds a parameter itself; those with a rule as a whole."""

    def __init__(
        self,
        model: nn.Module,
        slots: Tensor,
        declared: int = 0,
        rules: bool = True,
        real: Tensor | None = None,
    ) -> None:
        self.model, self.slots, self.declared, self.real = model, slots, declared, real
        self.hooked, self.trials, self.deferred = True, 0, []
        self.groups: Groups | None = None
        self.rows: dict[nn.Parameter, Tensor] = {}
        self.parts: list[tuple[nn.Parameter, Any]] = []
        self.names = {p: n for n, p in model.named_parameters()}
        watched, ruled = [], []
        for name, module in self.modules(model, ""):
            whole = isinstance(module, nn.MultiheadAttention)
            own = {n: p for n, p in module.named_parameters(recurse=whole) if p.requires_grad}
            if not own:
                continue
            found = rule_for(module) if rules and not whole else None
            label = f"{name or 'the model itself'} ({type(module).__name__})"
            unit = Watched(name, label, module, own)
            if found:
                ruled.append((unit, found[1]))
            else:
                watched.append((unit, None))
        self.capture = Capture(
            model, [u for u, _ in watched], [u for u, _ in ruled], declared, self.unhooked
        )
        model.register_forward_pre_hook(self.enter, with_kwargs=True, prepend=True)
        for unit, form in watched + ruled:
            self.hook(unit, form)
        model.register_forward_hook(self.leave, always_call=True)
        for p in model.parameters():
            if p.requires_grad:
                p.register_hook(self.refuse)

    def modules(self, module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        yield name, module
        if not isinstance(module, nn.MultiheadAttention):
            for leaf, child in module.named_children():
                yield from self.modules(child, f"{name}.{leaf}" if name else leaf)

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        self.trials += 1
        self.hooked = False
        try:
            yield
        finally:
            self.hooked = True

    def refuse(self, _grad: Tensor) -> None:
        raise AssertionError("autograd computed a parameter gradient")

    def enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.hooked:
            self.capture.enter((args, kwargs), len(self.slots), self)

    def leave(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        return self.capture.leave(output) if self.hooked else None

    def hook(self, unit: Watched, form: Any) -> None:
        """The capture of a module; of a layer with a rule, without its subtleties."""
        calls: list[tuple[bool, dict[str, Any]]] = []

        def before(m: nn.Module, args: Any, kwargs: Any) -> Any:
            if not self.hooked:
                return None
            rows = len(self.slots)
            args, kwargs, seen = self.capture.begin(unit, form is None, args, kwargs, rows, self)
            calls.append((seen, dict(m._parameters)))
            if not seen:
                for n, p in m._parameters.items():
                    m._parameters[n] = None if p is None else p.detach()
            return args, kwargs

        def after(m: nn.Module, args: Any, output: Tensor) -> Any:
            if not self.hooked:
                return None
            seen, kept = calls.pop()
            if not seen:
                m._parameters.update(kept)
            if not seen and output is not None:
                inputs = [a.detach() for a in args]

                def parts(grad: Tensor, groups: Groups) -> Parts:
                    return form(m, inputs, grad, groups)

                output = self.tap(output, parts)
            return self.capture.end(output)

        unit.module.register_forward_pre_hook(before, with_kwargs=True)
        unit.module.register_forward_hook(after, always_call=True)

    # ---- the host --------------------------------------------------------------------------

    def tap(self, output: Tensor, form: Callable[[Tensor, Groups], Parts]) -> Tensor:
        if not output.requires_grad:
            output = anchored(output, shared=False)
        output, target = hookable(output)
        shape = output.shape

        def arrive(grad: Tensor) -> None:
            self.begin()
            with torch.no_grad():
                self.collect(form(grad.detach().view(shape), self.groups))

        target.register_hook(arrive)
        return output

    def take(self, form: Callable[[Groups], Parts]) -> None:
        self.begin()
        with torch.no_grad():
            self.collect(form(self.groups))

    def defer(self, form: Callable[[Groups], Parts]) -> None:
        self.deferred.append(form)

    def begin(self) -> None:
        if self.groups is None:
            self.groups = groups_of(self.slots, self.real)
            self.rows, self.parts, self.deferred = {}, [], []
            torch.autograd.Variable._execution_engine.queue_callback(self.end)

    def end(self) -> None:
        for form in self.deferred:
            self.collect(form(self.groups))
        self.groups = None

    def collect(self, parts: Parts) -> None:
        for param, part in parts.items():
            self.parts.append((param, part))
            rows = part.rows(None)
            self.rows[param] = self.rows[param] + rows if param in self.rows else rows


def square(output: Tensor) -> Tensor:
    """Returns [B], a loss of each sample that touches every output."""
    weight = torch.linspace(0.5, 1.5, output[0].numel()).view(output[0].shape)
    return (torch.sin(output) * weight).flatten(1).sum(1)


def engine(model: nn.Module, slots: Tensor, real: Tensor | None = None) -> Engine:
    """Returns an engine on the model, in place of an earlier one."""
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_hooks_with_kwargs.clear()
        module._forward_hooks_always_called.clear()
        module._forward_pre_hooks.clear()
        module._forward_pre_hooks_with_kwargs.clear()
    for p in model.parameters():
        p._backward_hooks = None
    return Engine(model, slots, real=real)


class Check:
    """Compares the rows of every parameter with one autograd call for each group on a copy."""

    engine = staticmethod(engine)

    def __call__(
        self,
        model: nn.Module,
        *inputs: Any,
        slots: Any = None,
        loss: Callable[[Any], Tensor] = square,
        declared: int = 0,
        rules: bool = True,
        rtol: float = 1e-8,
        before: Callable[[nn.Module], Any] = lambda model: None,
    ) -> Engine:
        axes = inputs[0].shape[declared]
        engine = None
        for slot in slots or ([*range(axes)], [i // 2 for i in range(axes)], [0, 1] * axes):
            plain = copy.deepcopy(model)
            made = copy.deepcopy(model)
            engine = Engine(made, torch.tensor(slot[:axes]), declared, rules)
            state = torch.get_rng_state()
            before(made)
            output = made(*inputs)
            torch.set_rng_state(state)
            before(plain)
            wanted = plain(*inputs)
            torch.testing.assert_close(output, wanted)
            loss(output).sum().backward()
            assert engine.groups is None
            losses = loss(wanted)
            params = [p for p in plain.parameters() if p.requires_grad]
            mine = [p for p in made.parameters() if p.requires_grad]
            for number, group in enumerate(engine.slots.unique()):
                total = losses[engine.slots == group].sum()
                grads = torch.autograd.grad(total, params, retain_graph=True, allow_unused=True)
                for p, grad in zip(mine, grads, strict=True):
                    name = engine.names[p]
                    if grad is None or p not in engine.rows:
                        zero = grad is None or not grad.any()
                        assert zero and not (p in engine.rows and engine.rows[p].any()), name
                        continue
                    row = engine.rows[p][number]
                    assert row.shape == p.shape, name
                    torch.testing.assert_close(row.to(grad), grad, rtol=rtol, atol=rtol, msg=name)
            if rtol < 1e-3:
                self.parts(engine)
            assert all(a is b for a, b in zip(engine.names, made.parameters(), strict=True))
        return engine

    def parts(self, engine: Engine) -> None:
        """Norms and sums of each part must agree with its rows."""
        for _, part in engine.parts:
            rows = part.rows(None)
            factors = torch.rand(len(rows), dtype=torch.promote_types(rows.dtype, torch.float32))
            wide = rows.reshape(len(rows), -1).to(torch.promote_types(rows.dtype, torch.float32))
            torch.testing.assert_close(part.squares(), wide.square().sum(1))
            total = torch.einsum("g,g...->...", factors, rows.to(factors.dtype))
            torch.testing.assert_close(part.summed(factors, None), total)
            out = torch.full_like(rows, 7.0)
            torch.testing.assert_close(part.rows(out), rows)
            part.add_to(out)
            torch.testing.assert_close(out, 2 * rows)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def check() -> Check:
    return Check()
