"""On a GPU: the same sums, and no step that waits for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dpclip import clip, micro_batches, per_core, per_sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GROUPINGS = [per_sample(), micro_batches(4), micro_batches(2, slots="random"), per_core(2)]


@pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda g: g.label)
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "tied"])
def test_equals_the_twin(kit, name, memory, grouping):
    model, data = {
        "mlp": (kit.Mlp, kit.vectors),
        "convolutions": (kit.ConvNet, kit.images),
        "tied": (kit.Transformer, kit.texts),
    }[name]
    model = model()
    trained = kit.private(
        copy.deepcopy(model).cuda(), data(), memory=memory, grouping=grouping, weighting=clip(0.2)
    )
    trained.twin.model.cpu()
    for x, y in trained.loader:
        wanted = trained.expected(x, y)
        trained.optimizer.zero_grad()
        kit.mean_loss(trained.model(x.cuda()), y.cuda()).backward()
        kit.close([g.cpu() for g in trained.grads], wanted)
        trained.optimizer.step()
        trained.twin.model.load_state_dict(trained.model.state_dict())


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_step_never_waits_for_the_device(kit, memory):
    model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 5)).cuda()
    trained = kit.private(model, kit.vectors(64), batch_size=16, memory=memory, weighting=clip(0.2))
    x, y = (t.cuda() for t in next(iter(trained.loader)))
    for number in range(3):  # the first fills what is kept from step to step
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            kit.mean_loss(trained.model(x), y).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
