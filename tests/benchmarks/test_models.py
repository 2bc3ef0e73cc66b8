"""The models have the shapes that were asked for, and losses of single samples."""

from __future__ import annotations

import pytest
import torch

from benchmarks.models import MODELS

# (inputs, targets, parameters); those of the first six are in the design.
FULL = {
    "mlp": ((256, 64), (256,), 26_122),
    "cnn": ((128, 3, 32, 32), (128,), 457_738),
    "gpt": ((32, 128), (32, 128), 4_216_320),
    "gpt-tied": ((32, 128), (32, 128), 3_704_320),
    "conformer": ((16, 200, 80), (16, 30), 1_959_152),
    "conformer-batch-first": ((16, 200, 80), (16, 30), 1_959_152),
    "lstm": ((32, 64), (32, 64), 1_552_336),
    "vit": ((64, 3, 32, 32), (64,), 1_803_850),
    "mobilenet": ((64, 3, 32, 32), (64,), 67_914),
    "tagger": ((32, 48), (32, 48), 331_284),
}


@pytest.mark.parametrize("model", MODELS)
def test_full_shapes(model):
    workload = MODELS[model].full()
    batch = workload.make_batch(0)
    assert workload.model.training
    assert (batch.x.shape, batch.y.shape, sum(p.numel() for p in workload.model.parameters())) == (
        FULL[model]
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_loss_is_of_one_sample(model, double):
    workload = MODELS[model].reduced()
    x, y = workload.make_batch(0)
    together = workload.losses(workload.model(x), y)
    alone = [workload.losses(workload.model(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_every_time(model):
    first = MODELS[model].reduced()
    torch.rand(3)
    second = MODELS[model].reduced()
    torch.testing.assert_close(first.model.state_dict(), second.model.state_dict())
    torch.testing.assert_close(first.make_batch(1), second.make_batch(1))
    assert not torch.equal(first.make_batch(1).x, first.make_batch(2).x)


def test_the_two_conformers_compute_the_same():
    pytest.importorskip("torchaudio")
    one, other = MODELS["conformer"].reduced(), MODELS["conformer-batch-first"].reduced()
    other.model.load_state_dict(one.model.state_dict())
    x, _ = one.make_batch(0)
    torch.testing.assert_close(one.model(x), other.model(x))


@pytest.mark.parametrize("model", MODELS)
def test_features_have_a_row_for_each_sample(model):
    workload = MODELS[model].reduced()
    x, _ = workload.make_batch(0)
    seen = []
    layer = workload.model.get_submodule(workload.features)
    layer.register_forward_hook(lambda module, given, output: seen.append(output))
    workload.model(x)
    (features,) = seen
    assert len(features) == len(x) and features.flatten(1).unique(dim=0).shape[0] == len(x)
