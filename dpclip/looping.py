"""The loop over groups: the model runs once for each group, each time on parameters of its own.

Autograd then forms the group gradients by itself, with the kernels of plain training and whatever
the model is made of. Good for few large groups, whose activations stay in the cache, and for models
that use their weights in ways no rule captures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.arrival import Batch, Sink
from dpclip.groups import Groups
from dpclip.native import refuse_native
from dpclip.parts import Separate
from dpclip.swapping import swapped
from dpclip.units import Unit


class GroupLoop:
    """Stands in for the model's forward and hands group gradients to a sink.

    Args:
        module: the model; its samples must not mix, and its outputs must have a batch axis.
        sink: who receives the parts.
        batch_first: False if the batch is the second axis of inputs and outputs.
    """

    units: Sequence[Unit] = ()

    def __init__(self, module: nn.Module, sink: Sink, batch_first: bool = True) -> None:
        if "forward" in vars(module):
            raise ValueError(
                f"{type(module).__name__} has a forward of its own instance already. Call close() "
                "on the engine that put it there first."
            )
        self._module, self._sink, self._axis = module, sink, 0 if batch_first else 1
        every = module.named_parameters(remove_duplicate=False)  # tied ones by all their names
        self._params = {n: p for n, p in every if p.requires_grad}
        self._forward = module.forward

        @wraps(self._forward)
        def _stand_in(*args: Any, **kwargs: Any) -> Any:
            return self._by_group(*args, **kwargs)

        module.forward = _stand_in
        self._handles = [
            param.register_hook(refuse_native(module, name, lambda: True))
            for name, param in self._params.items()
        ]

    def cleanup(self) -> None:
        """Gives the model its own forward back."""
        del self._module.forward
        for handle in self._handles:
            handle.remove()

    def _by_group(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the model's outputs, of one call for each group."""
        if not (self._module.training and torch.is_grad_enabled()):
            return self._forward(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        first = self._first(leaves)
        rows = int(first.shape[self._axis])
        batch = self._sink.begin_forward(rows)
        groups = self._sink.groups_ahead(batch)
        order = _order(groups, rows)
        calls = _Calls(self._sink, batch, self._params, groups.count)
        outputs = []
        # Padding rows run too, since the loss wants them.
        sizes = [*groups.lengths, rows - sum(groups.lengths)]
        start = 0
        for k, chosen in enumerate(order.split(sizes)):
            if len(chosen):
                cut = [
                    self._taken(leaf, rows, start, chosen, groups, leaf is first) for leaf in leaves
                ]
                start += len(chosen)
                more_args, more_kwargs = pytree.tree_unflatten(cut, spec)
                with swapped(self._module, calls.twins(k)):
                    outputs.append((self._forward(*more_args, **more_kwargs), len(chosen)))
        sorted_ = groups.order is None and groups.keep is None
        return self._joined(outputs, None if sorted_ else torch.argsort(order))

    def _first(self, leaves: Sequence[Any]) -> Tensor:
        """Returns the first input with a batch axis, whose samples are counted."""
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.dim() > self._axis:
                return leaf
        raise RuntimeError(
            f"No input tensor with a batch axis {self._axis} reached the model, so the number of "
            "samples is unknown. Pass the batch as a tensor argument."
        )

    def _taken(
        self, leaf: Any, rows: int, start: int, chosen: Tensor, groups: Groups, first: bool
    ) -> Any:
        """Returns the samples of one group, where the value holds samples; a view if it can be."""
        if not isinstance(leaf, Tensor) or leaf.dim() <= self._axis:
            return leaf
        if leaf.shape[self._axis] != rows:
            return leaf
        if not first and list(leaf.shape).count(rows) > 1:
            raise RuntimeError(
                f"The model got a tensor of shape {tuple(leaf.shape)} beside {rows} samples: is it "
                "one entry for each, or a mask that all share? Give a mask a leading axis of 1, or "
                "keep it as a buffer of the model."
            )
        if groups.order is None and groups.keep is None:
            return leaf.narrow(self._axis, start, len(chosen))
        return leaf.index_select(self._axis, chosen.to(leaf.device))

    def _joined(self, outputs: Sequence[tuple[Any, int]], back: Tensor | None) -> Any:
        """Returns one output for the batch, its samples put `back` in the order they came in."""
        flat = [pytree.tree_flatten(output)[0] for output, _ in outputs]
        spec = pytree.tree_flatten(outputs[0][0])[1]
        sizes = [size for _, size in outputs]
        joined = [self._cat(same, sizes, back) for same in zip(*flat, strict=True)]
        return pytree.tree_unflatten(joined, spec)

    def _cat(self, same: Sequence[Any], sizes: Sequence[int], back: Tensor | None) -> Any:
        if not isinstance(same[0], Tensor):
            return same[0]
        likely = (self._axis, *range(same[0].dim()))
        for axis in likely:
            if all(t.dim() > axis and t.shape[axis] == m for t, m in zip(same, sizes, strict=True)):
                whole = torch.cat(list(same), axis)
                return whole if back is None else whole.index_select(axis, back.to(whole.device))
        raise RuntimeError(
            f"The model returned a tensor of shape {tuple(same[0].shape)} for a group of "
            f"{sizes[0]} samples, in which no axis holds them. Return one entry for each sample "
            "(not a mean over the batch), or train without loop=True."
        )


class _Calls:
    """The gradients that come back to the parameters of each group's call.

    It holds no twin, for a twin's hook holds it, and no collector looks into such a circle.
    """

    def __init__(
        self, sink: Sink, batch: Batch, params: dict[str, nn.Parameter], count: int
    ) -> None:
        self._sink, self._batch, self._params, self._count = sink, batch, params, count
        self._grads: dict[nn.Parameter, list[Tensor | None]] = {}
        self._task = -1

    def twins(self, k: int) -> dict[str, Tensor]:
        """Returns what group k runs on: the parameters' memory, as leaves of their own.

        Padding rows come after the groups; their gradients are not kept.
        """
        twins = {param: param.detach().requires_grad_() for param in self._params.values()}
        for param, twin in twins.items():
            twin.register_post_accumulate_grad_hook(partial(self._arrive, k, param))
        return {name: twins[param] for name, param in self._params.items()}

    def _arrive(self, k: int, param: nn.Parameter, twin: Tensor) -> None:
        self._sink.begin_backward(self._batch)
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._grads = task, {}
            self._sink.defer(self._collect)
        if k < self._count:
            self._grads.setdefault(param, [None] * self._count)[k] = twin.grad
        twin.grad = None

    def _collect(self) -> None:
        grads, self._grads = self._grads, {}
        for param, each in grads.items():
            rows = [torch.zeros_like(param) if grad is None else grad for grad in each]
            self._sink.collect({param: Separate(rows)})


def _order(groups: Groups, rows: int) -> Tensor:
    """Returns [B]: the samples of group 0, of group 1, ..., then the padding rows."""
    device = groups.index.device
    kept = torch.arange(rows, device=device) if groups.keep is None else groups.keep
    if groups.order is not None:
        kept = kept[groups.order]
    if groups.keep is None:
        return kept
    padding = torch.ones(rows, dtype=torch.bool, device=device)
    padding[kept] = False
    return torch.cat([kept, padding.nonzero().flatten()])
