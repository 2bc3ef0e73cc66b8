"""A look that leaves no trace."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dpclip import PrivacyEngine
from dpclip.doctor import examine
from dpclip.doctor.dropout import without_dropout
from dpclip.doctor.undisturbed import gradients_aside, same_buffers, same_numbers, same_values


def random_numbers() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [None, 3])
def test_random_states(seed):
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    wanted = random_numbers()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    with same_numbers(seed):
        inside = random_numbers()
    assert random_numbers() == wanted and (inside == wanted) is (seed is None)
    with same_numbers(3):
        assert (random_numbers() == inside) is (seed == 3)


def test_random_states_after_an_exception():
    torch.manual_seed(0)
    wanted = float(torch.rand(()))
    torch.manual_seed(0)
    with pytest.raises(KeyError), same_numbers():
        torch.rand(())
        raise KeyError
    assert float(torch.rand(())) == wanted


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.tensor([1.0, float("nan")]))
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("nothing", None)


def test_buffers():
    model = nn.Sequential(Holder())
    before = dict(model[0].named_buffers())
    version = model[0].written._version
    with same_buffers(model) as changed:
        model[0].written.add_(1)
        model[0].replaced = torch.ones(3)
        model[0].register_buffer("late", torch.ones(1))
    assert changed.keys() == {"0.written", "0.replaced"}
    assert changed["0.written"].tolist() == [1, 1] and changed["0.replaced"].tolist() == [1, 1, 1]
    after = dict(model[0].named_buffers())
    assert after.keys() == before.keys() and all(after[n] is before[n] for n in before)
    assert model[0].written.tolist() == model[0].replaced.tolist() == [0, 0]
    assert model[0].written._version == version + 1  # the change alone


def test_same_values():
    one = torch.tensor([1.0, float("nan")])
    assert same_values(one, one.clone())
    assert not same_values(one, torch.tensor([1.0, 2.0]))
    assert not same_values(one, one[:1])
    assert same_values(torch.tensor([True]), torch.tensor([True]))


def test_gradients():
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    grad = params[0].grad = torch.full((2,), 3.0)
    with gradients_aside(params):
        sum(params).sum().backward()
        assert params[0].grad.tolist() == [1, 1]
    assert params[0].grad is grad and grad.tolist() == [3, 3] and params[1].grad is None


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen = nn.Dropout(0.3), nn.Linear(2, 2)
        self.lstm = nn.LSTM(2, 2, num_layers=2, dropout=0.4)
        self.drop_rate, self.other = 0.5, 0.5


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_on_again(training):
    model = Parts().train(training)
    model.frozen.eval()
    with without_dropout(model):
        assert model.training and model.lstm.training and not model.drop.training
        assert model.frozen.training is not training  # who trains leaves parts of it in eval mode
        assert (model.lstm.dropout, model.drop_rate, model.other) == (0.0, 0.0, 0.5)
        assert F.dropout(torch.ones(9), 0.9).tolist() == [1] * 9
        assert F.dropout(input=torch.ones(9), p=0.9).tolist() == [1] * 9
    assert (model.lstm.dropout, model.drop_rate, model.other) == (0.4, 0.5, 0.5)
    assert model.training is model.drop.training is model.lstm.training is training
    assert not model.frozen.training and 0.0 in F.dropout(torch.ones(99), 0.9)


# ---- the whole look ----------------------------------------------------------------------------


class Augmented(Dataset[Any]):
    """Items that random numbers of every kind are drawn for."""

    def __init__(self) -> None:
        self.x, self.y = torch.randn(40, 5, 6), torch.randint(5, (40,))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        noise = random.random() + np.random.rand() + torch.rand(())
        return self.x[i] + 0.1 * noise, self.y[i]


class Model(nn.Module):
    """Dropout of three kinds, a counter, and a part in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 7, num_layers=2, dropout=0.3, batch_first=True)
        self.drop, self.still = nn.Dropout(0.2), nn.Dropout(0.9).eval()
        self.head = nn.Linear(7, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.still(self.drop(self.lstm(x)[0].mean(1)))
        return self.head(F.dropout(hidden, 0.1, self.training))


class Failure(Exception):
    pass


def trained(look: str, loop: bool) -> dict[str, Any]:
    """Trains four steps in pieces; returns all that there is to compare."""
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    model, source = Model(), DataLoader(Augmented(), batch_size=8)
    engine = PrivacyEngine(seed=1, measure=False, loop=loop)
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.1),
        data_loader=source,
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        max_physical_batch=5,
    )

    def loss(batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def failing(batch):
        if len(batch[1]) == 1:
            raise Failure
        return loss(batch)

    def doctor() -> None:
        if look == "fails" and engine.steps:
            with pytest.raises(Failure):
                examine(engine._engine, source, failing)
        elif look == "looks" and engine.steps:
            report = examine(engine._engine, source, loss)
            assert report.sound and report.rows.change < 1e-12

    for x, y in itertools.chain(loader, loader):
        doctor()
        optimizer.zero_grad()
        kept = loss((x, y))
        doctor()
        kept.backward()
        doctor()
        optimizer.step()
        if engine.steps == 4:
            break
    return {
        **model.state_dict(),
        **{f"grad of {n}": p.grad for n, p in model.named_parameters()},
        "numbers": torch.tensor(random_numbers()),
        "noise": engine.state_dict()["noise"],
        "norms": engine.diagnostics().norms,
        "modes": torch.tensor([m.training for m in model.modules()]),
        "epsilon": torch.tensor(engine.get_epsilon(1e-5)),
        "rates": torch.tensor([model.lstm.dropout]),
    }


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("look", ["looks", "fails"])
def test_training_goes_on_bit_by_bit(look, loop):
    """Also in the middle of a step, and of a batch; and after a look that an exception ended."""
    undisturbed, looked = trained("", loop), trained(look, loop)
    assert undisturbed.keys() == looked.keys()
    for name, value in undisturbed.items():
        assert torch.equal(value, looked[name]), name


@pytest.mark.parametrize("training", [True, False])
def test_modes_gradients_and_attributes(kit, training):
    """In eval mode too, without gradients, and if the loss holds on to a parameter."""
    run = kit.private(kit.Mlp(), kit.vectors(), noise_multiplier=1.0, max_grad_norm=1.0)
    for x, y in itertools.islice(run.loader, 1):
        kit.mean_loss(run.model(x), y).backward()
        run.optimizer.step()
    weight, attributes = run.model.layers[0].weight, set(vars(run.model))
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in run.model.modules()]
    grads = {p: (p.grad, p.grad.clone()) for p in run.model.parameters()}
    run.model.train(training)
    with torch.no_grad():
        report = examine(
            run.inner,
            DataLoader(kit.vectors()),
            lambda batch: kit.mean_loss(run.model(batch[0]), batch[1]) + weight.sum(),
        )
    assert report.rows.change < 1e-12
    assert run.model.training is training and set(vars(run.model)) == attributes
    now = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in run.model.modules()]
    assert now == hooks and run.inner.hooks.hooks_enabled
    assert run.model.layers[0].weight is weight
    for param, (grad, values) in grads.items():
        assert param.grad is grad and torch.equal(grad, values)


class Mixup(nn.Module):
    """Draws in batches alone, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if len(x) == 1 else 0.7 * x + 0.3 * x[torch.randperm(len(x))]


def test_a_look_that_finds_something_leaves_no_trace_either(kit):
    model = nn.Sequential(nn.Linear(6, 6), Mixup(), nn.Linear(6, 5))
    run = kit.private(model, kit.vectors(), noise_multiplier=1.0, max_grad_norm=1.0)
    for x, y in itertools.islice(run.loader, 1):
        kit.mean_loss(model(x), y).backward()
        run.optimizer.step()
    source = DataLoader(kit.vectors())
    numbers, calls = torch.get_rng_state(), model[1].calls.clone()
    report = examine(
        run.inner,
        source,
        lambda batch: kit.mean_loss(model(batch[0]), batch[1]),
    )
    assert not report.sound
    assert torch.equal(torch.get_rng_state(), numbers) and torch.equal(model[1].calls, calls)
