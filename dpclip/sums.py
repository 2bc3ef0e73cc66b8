"""The sum of weighted groups in `p.grad`, over the passes and physical batches of one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpclip.parts import Part


class Sums:
    """Writes `p.grad`, and keeps what earlier physical batches have added up beside it.

    Args:
        params: L trainable parameters.
    """

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        self._params = params
        self._held: list[Tensor | None] = [None] * len(params)
        self._released: list[Tensor | None] = list(self._held)
        self._seen: list[tuple[Tensor, int]] = []  # p.grad as it was left, with its version
        self._length: Tensor | None = None

    def drop(self) -> None:
        """Begins the sum of a physical batch anew, whoever zeroes gradients."""
        for param in self._params:
            param.grad = None

    def forget(self) -> None:
        """Drops what earlier physical batches have added up."""
        self._held = [None] * len(self._params)

    def add(self, parts: Sequence[Part | None], factors: Tensor, valid: Tensor | None) -> None:
        """Adds the sums of factors [G] or [L, G] times rows; groups not in `valid` are left out."""
        for layer, (param, part) in enumerate(zip(self._params, parts, strict=True)):
            factor = factors if factors.dim() == 1 else factors[layer]
            total = torch.zeros_like(param) if part is None else part.summed(factor, valid)
            if total.shape != param.shape or total.dtype != param.dtype:
                total = total.view_as(param).to(param.dtype)
            param.grad = total if param.grad is None else param.grad + total

    def add_update(self, update: Tensor) -> None:
        """Adds an update [P], the parameters one after the other."""
        parts = update.split([param.numel() for param in self._params])
        for param, part in zip(self._params, parts, strict=True):
            total = part.view_as(param).to(param.dtype)
            param.grad = total.clone() if param.grad is None else param.grad + total

    def rescale(self, factor: Tensor) -> None:
        """Multiplies what was added in this step by one factor or by one for each layer [L]."""
        for layer, param in enumerate(self._params):
            by = factor if factor.dim() == 0 else factor[layer]
            for tensor in (param.grad, self._held[layer]):
                if tensor is not None:
                    tensor.mul_(by.to(tensor))

    def hold(self) -> None:
        """Puts `p.grad` aside; optimizers skip parameters without a gradient."""
        for i, param in enumerate(self._params):
            self._held[i] = _sum(self._held[i], param.grad)
        self.drop()

    def total(self) -> list[Tensor]:
        """Returns the sum of the whole step, which is `p.grad` from here on."""
        grads = []
        for held, param in zip(self._held, self._params, strict=True):
            total = _sum(held, param.grad)
            param.grad = torch.zeros_like(param) if total is None else total
            grads.append(param.grad)
        self.forget()
        return grads

    def look(self) -> None:
        """Remembers `p.grad`, for `grown` to be asked later."""
        grads = [p.grad for p in self._params if p.grad is not None]
        self._seen = [(grad, grad._version) for grad in grads]
        self._length = _length(grads) if grads else None

    def grown(self) -> bool:
        """Returns True if `p.grad` was replaced, or made longer, since `look`.

        Trainers that clip it make it shorter, which moves it by no more than it moved before.
        """
        grads = [p.grad for p in self._params if p.grad is not None]
        same = len(grads) == len(self._seen)
        if not same or any(g is not seen for g, (seen, _) in zip(grads, self._seen, strict=True)):
            return True
        if all(grad._version == version for grad, version in self._seen) or self._length is None:
            return False
        return bool(_length(grads) > self._length * (1 + 1e-5))

    def release(self) -> None:
        """Remembers `p.grad` as what a step has released."""
        self._released = [param.grad for param in self._params]

    def foreign(self) -> bool:
        """Returns True if a `p.grad` is there that no step has released."""
        pairs = zip(self._params, self._released, strict=True)
        return any(p.grad is not None and p.grad is not released for p, released in pairs)


def _length(grads: Sequence[Tensor]) -> Tensor:
    """Returns the l2 norm of all gradients together, without waiting for a device."""
    norms = torch._foreach_norm(list(grads))
    together: Tensor = torch.stack([norm.to(norms[0]) for norm in norms])
    length: Tensor = torch.linalg.vector_norm(together)
    return length


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
