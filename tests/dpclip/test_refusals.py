"""What is refused, and that each message names what was found and the way out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dpclip import PrivacyEngine, clip, clip_to_min, micro_batches, per_core, uniform


def ask(model=None, optimizer=None, loader=None, **how):
    torch.set_default_dtype(torch.float32)
    model = nn.Linear(4, 3) if model is None else model
    if optimizer is None and isinstance(model, nn.Module):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = TensorDataset(torch.randn(20, 4))
    loader = DataLoader(data, batch_size=5) if loader is None else loader
    given = {"noise_multiplier": 0.0, "max_grad_norm": 1.0} | how
    before = len(getattr(model, "_forward_hooks", ()))
    try:
        PrivacyEngine().make_private(module=model, optimizer=optimizer, data_loader=loader, **given)
    finally:
        assert len(getattr(model, "_forward_hooks", ())) == before


def refused(error, words, *args, **how):
    with pytest.raises(error, match=words):
        ask(*args, **how)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm1d(3), "BatchNorm1d, which mixes the samples.*GroupNorm"),
        (nn.SyncBatchNorm(3), "mixes the samples"),
        (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), "track_running_stats=False"),
        (nn.Embedding(3, 2, max_norm=1.0), "max_norm=None"),
        (nn.EmbeddingBag(3, 2, max_norm=1.0), "max_norm=None"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)), "remove_parametrizations"),
        (nn.Linear(3, 3, dtype=torch.complex64), "Complex"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_layers(layer, words):
    refused(ValueError, words, nn.Sequential(nn.Linear(4, 3), layer))


def test_batch_norm_of_opacus_fixer_is_accepted():
    from opacus.validators import ModuleValidator

    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    net = ModuleValidator.fix(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    data = DataLoader(TensorDataset(torch.randn(20, 1, 2, 2)), batch_size=5)
    PrivacyEngine().make_private(
        module=net, optimizer=optimizer, data_loader=data, noise_multiplier=0.0, max_grad_norm=1.0
    )


def test_models():
    refused(TypeError, "module is a str", "model", torch.optim.SGD(nn.Linear(1, 1).parameters()))
    refused(ValueError, r"eval mode.*model\.train\(\)", nn.Linear(4, 3).eval())
    frozen = nn.Linear(4, 3).requires_grad_(False)
    refused(ValueError, "no trainable parameter", frozen)
    refused(ValueError, r"model\.module", nn.DataParallel(nn.Linear(4, 3)))


def test_optimizers():
    model, other = nn.Linear(4, 3), nn.Linear(2, 2)
    sgd = torch.optim.SGD
    refused(ValueError, "not in the optimizer: bias", model, sgd([model.weight], lr=0.1))
    both = sgd([*model.parameters(), *other.parameters()], lr=0.1)
    refused(ValueError, "2 trainable parameters that are not in the model", model, both)
    refused(TypeError, "2 optimizers", model, [sgd([model.weight]), sgd([model.bias])])
    refused(TypeError, "LBFGS.*first-order", model, torch.optim.LBFGS(model.parameters()))
    refused(TypeError, "optimizer is a int", model, 3)


def test_frozen_parameters_may_be_anywhere():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    ask_kept = PrivacyEngine()
    ask_kept.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(torch.randn(20, 4)), batch_size=5),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
    )
    ask_kept.close()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.randn(20, 4))


def test_loaders():
    data = TensorDataset(torch.randn(20, 4))
    refused(TypeError, "IterableDataset.*map-style", loader=DataLoader(Stream(), batch_size=5))
    refused(ValueError, "batch_size=None", loader=DataLoader(data, batch_size=None))
    small = DataLoader(data, batch_size=3)
    refused(ValueError, r"batch size 3 is smaller.*\(4\)", loader=small, grouping=micro_batches(4))
    refused(ValueError, r"batch size 3 is smaller", loader=small, grouping=per_core(4))
    few = DataLoader(data, batch_size=30, drop_last=True)
    refused(ValueError, "has no batch", loader=few, poisson_sampling=False)
    weighted = torch.utils.data.WeightedRandomSampler([1.0] * 20, 20)
    refused(
        ValueError,
        "WeightedRandomSampler would be ignored",
        loader=DataLoader(data, batch_size=5, sampler=weighted),
    )


def test_numbers():
    refused(ValueError, "both were given", weighting=clip(1.0))
    refused(ValueError, "neither was given", max_grad_norm=None)
    for wrong in (-1.0, float("nan"), float("inf")):
        refused(ValueError, "noise_multiplier=.*>= 0", noise_multiplier=wrong)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        refused(ValueError, "positive finite", max_grad_norm=wrong)
    refused(ValueError, '"mean" or "sum"', loss_reduction="none")
    refused(ValueError, "at least 1", max_physical_batch=0)
    refused(TypeError, "max_gradnorm", max_gradnorm=1.0)


@pytest.mark.parametrize("rule", [uniform(), clip_to_min()], ids=lambda r: r.label)
def test_noise_on_groups_without_a_bound(rule):
    refused(
        ValueError,
        r"no group is bounded by itself.*clip\(C\)",
        noise_multiplier=1.0,
        max_grad_norm=None,
        weighting=rule,
    )


@pytest.mark.parametrize(
    ("grouping", "way"), [(micro_batches(2), 'slots="random"'), (per_core(2), 'slots="fixed"')]
)
def test_noise_by_position_warns_once_and_names_the_way(grouping, way):
    model = nn.Linear(4, 3)
    with pytest.warns(UserWarning, match="supports no epsilon") as caught:
        PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(torch.randn(20, 4)), batch_size=5),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            grouping=grouping,
        )
    assert len(caught) == 1 and way in str(caught[0].message)
    assert caught[0].filename == __file__
