"""Whether hooks, parameters and ranks still are as make_private and the steps have left them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.utils.hooks import RemovableHandle

from dpclip.doctor.findings import Finding, listed
from dpclip.engine import Engine
from dpclip.hooks import GroupHooks


def in_place(engine: Engine) -> Iterator[Finding]:
    """Yields what is no longer as it was; over several ranks, all must ask alike."""
    yield from _step_hook(engine)
    yield from _capture(engine)
    yield from _parameters(engine)
    yield from _ranks(engine)


def _step_hook(engine: Engine) -> Iterator[Finding]:
    held = engine._step_hook.hooks_dict_ref()
    if held is None:
        yield Finding(True, "the optimizer that make_private returned is gone; another one trains")
    elif engine._step_hook.id not in held:
        yield Finding(True, "the hook that adds noise was removed from the optimizer")


def _capture(engine: Engine) -> Iterator[Finding]:
    hooks = engine.hooks
    if isinstance(hooks, GroupHooks):
        lost = _removed(hooks.autograd_grad_sample_hooks)
        if not hooks.hooks_enabled:
            yield Finding(True, "the hooks that capture gradients were switched off")
    else:
        lost = _removed(hooks._handles) + ("forward" not in vars(hooks._module))
    if lost:
        yield Finding(True, f"hooks that capture gradients were removed from the model ({lost})")


def _removed(handles: Iterable[RemovableHandle]) -> int:
    """Returns how many hooks are no longer where they were put."""
    held = [(handle.id, handle.hooks_dict_ref()) for handle in handles]
    return sum(hooks is None or number not in hooks for number, hooks in held)


def _parameters(engine: Engine) -> Iterator[Finding]:
    """Looks for parameters that came, went or changed."""
    now, mine = dict(engine.hooks._module.named_parameters()), set(engine.params)
    present = set(now.values())
    again = "call close() and make_private again"
    if new := [name for name, p in now.items() if p.requires_grad and p not in mine]:
        text = f"new in the model since make_private, so that nothing clips them: {listed(new)}"
        yield Finding(True, f"{text}; {again}")
    if gone := [name for name, p in engine.names.items() if p not in present]:
        yield Finding(False, f"no longer in the model: {listed(gone)}")
    if frozen := [n for n, p in engine.names.items() if p in present and not p.requires_grad]:
        text = f"frozen since make_private, so that the next step raises: {listed(frozen)}"
        yield Finding(False, f"{text}; {again}")
    if changed := engine.witness.converted():
        text = f"of another precision or device than in the first step: {listed(changed)}"
        yield Finding(False, f"{text}; {again}")


def _ranks(engine: Engine) -> Iterator[Finding]:
    """Compares sums of the parameters over the ranks, which all begin and step alike."""
    if engine.ranks is None:
        return
    with torch.no_grad():
        values = [p.double() for p in engine.params]
        facts = {
            "the sum of all parameters": sum(float(v.sum()) for v in values),
            "their sum of squares": sum(float(v.square().sum()) for v in values),
        }
    try:
        engine.ranks.agree(facts)
    except ValueError as error:
        yield Finding(
            True, f"something beside the steps has moved the parameters. {error}".rstrip(".")
        )
