"""The rules by themselves, on groups that are ragged, out of order, and with padding rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpclip.groups import groups_of
from dpclip.layers import GROUP_RULES, rule_for

CASES = [
    (nn.Linear(3, 4), torch.randn(6, 3)),
    (nn.Linear(3, 4), torch.randn(6, 2, 3)),
    (nn.Embedding(5, 3, padding_idx=0), torch.randint(5, (6, 4))),
    (nn.EmbeddingBag(5, 3, mode="mean"), torch.randint(5, (6, 4))),
    (nn.Conv1d(3, 4, 2), torch.randn(6, 3, 5)),
    (nn.Conv2d(3, 4, 2, padding="same"), torch.randn(6, 3, 5, 4)),
    (nn.Conv3d(3, 4, 2, bias=False), torch.randn(6, 3, 3, 3, 3)),
    (nn.LayerNorm(3), torch.randn(6, 2, 3)),
    (nn.GroupNorm(1, 3), torch.randn(6, 3, 4)),
]
SLOTS = [
    ([1, 0, 2, 0, 1, 1], None),
    ([3, 0, 0, 3, 3, 5], [True, True, False, True, True, True]),
    ([0, 0, 1, 1, 2, 2], None),
    ([0, 1, 2, 3, 4, 5], [True] * 5 + [False]),
    ([7] * 6, None),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("together", [1, 50, 10**6])
@pytest.mark.parametrize(("slots", "real"), SLOTS, ids=str)
@pytest.mark.parametrize(("layer", "x"), CASES, ids=lambda v: type(v).__name__)
def test_rows_of_any_groups(layer, x, slots, real, together, monkeypatch):
    monkeypatch.setattr("dpclip.parts.convolved._TOGETHER", together)
    layer = layer.double()
    x = x.double() if x.is_floating_point() else x
    slots = torch.tensor(slots)
    keep = torch.ones(6, dtype=torch.bool) if real is None else torch.tensor(real)
    gout = torch.randn_like(layer(x))
    gout[~keep] = float("nan")
    _, rule = rule_for(layer)
    with torch.no_grad():
        parts = rule(layer, [x], gout, groups_of(slots, None if real is None else keep))
    params = list(layer.parameters())
    assert set(parts) == set(params)
    for row, slot in enumerate(slots[keep].unique()):
        held = keep & (slots == slot)
        wanted = torch.autograd.grad(layer(x[held]), params, gout[held])
        for p, w in zip(params, wanted, strict=True):
            assert torch.allclose(parts[p].rows(None)[row], w, rtol=1e-10, atol=1e-12)


def test_exact_types_only():
    """A subclass may have another forward."""

    class Odd(nn.Linear):
        pass

    assert rule_for(Odd(2, 2)) is None
    assert {rule_for(kind(2, 2))[0] for kind in (nn.Linear, nn.Embedding)} == {"dpclip"}
    assert all(issubclass(kind, nn.Module) for kind in GROUP_RULES)
