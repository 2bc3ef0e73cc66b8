"""Statistics of a norm's forward reach its rule."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpclip.layers import registry


class Net(nn.Module):
    def __init__(self, again):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 5)
        self.again = again

    def forward(self, x):
        def inner(x):
            return torch.tanh(self.norm(self.first(x)))

        return self.last(checkpoint(inner, x, use_reentrant=False) if self.again else inner(x))


@pytest.mark.parametrize("again", [False, True])
def test_statistics(kit, again, monkeypatch):
    """Unless the forward is run again in backward."""
    seen, rule = [], registry.GROUP_RULES[nn.LayerNorm]

    def watched(module, inputs, gout, groups):
        seen.append(len(inputs))
        return rule(module, inputs, gout, groups)

    monkeypatch.setitem(registry.GROUP_RULES, nn.LayerNorm, watched)
    trained = kit.private(Net(again), kit.vectors(), max_grad_norm=0.2)
    kit.agree(trained)
    assert set(seen) == {1 if again else 3}
