"""The life of the hooks: nothing leaks, nothing is left behind, misuse raises."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from dpclip import PrivacyEngine, clip, clip_to_min, micro_batches, per_sample


def one_batch(trained):
    return next(iter(trained.loader))


def test_forward_without_backward_leaks_nothing(kit):
    trained = kit.private(kit.ConvNet(), kit.images(), weighting=clip(0.3))
    x, y = one_batch(trained)

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    kept = weakref.ref(trained.model(x))
    gc.collect()
    assert kept() is None
    before = tensors()
    for _ in range(5):
        trained.model(x)
    assert tensors() == before
    wanted = trained.expected(x, y)
    kit.mean_loss(trained.model(x), y).backward()
    kit.close(trained.grads, wanted)


class Breaks(nn.Module):
    """Raises in its backward, once."""

    def __init__(self, armed):
        super().__init__()
        self.armed = armed

    def forward(self, x):
        def fail(_grad):
            if self.armed.pop("now", False):
                raise ArithmeticError("in the middle")

        x = x * 1.0
        x.register_hook(fail)
        return x


def test_exception_in_the_middle_of_backward(kit):
    armed = {"now": True}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 5)
            self.rnn = nn.LSTM(7, 7, batch_first=True)
            self.breaks = Breaks(armed)

        def forward(self, x):
            return self.b(self.rnn(self.breaks(self.a(x))[:, None])[0][:, 0])

    plain = Net()
    model = Net()
    model.load_state_dict(plain.state_dict())
    trained = kit.private(model, kit.vectors(), weighting=clip(0.3), grouping=micro_batches(3))
    trained.twin.model = copy.deepcopy(plain)
    trained.twin.params = list(trained.twin.model.parameters())
    trained.twin.model.breaks.armed.clear()
    x, y = one_batch(trained)
    loss = kit.mean_loss(trained.model(x), y)
    with pytest.raises(ArithmeticError):
        loss.backward(retain_graph=True)
    assert all(p.grad is None for p in model.parameters())
    wanted = trained.expected(x, y)
    loss.backward()
    kit.close(trained.grads, wanted)


def test_exception_in_forward_restores_the_parameters(kit):
    class Net(kit.Mlp):
        def forward(self, x):
            super().forward(x)
            raise KeyError("after the layers")

    model = Net()
    before = list(model.parameters())
    trained = kit.private(model, kit.vectors(), weighting=clip(0.3))
    x, _ = one_batch(trained)
    for bad in (x, x[:, :3]):
        with pytest.raises((KeyError, RuntimeError)):
            model(bad)
        assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_interrupt_in_forward_is_repaired(kit):
    """Modules do not call hooks for a KeyboardInterrupt, so the next forward puts things right."""
    armed = [True]

    class Slow(nn.Linear):
        def forward(self, x):
            if armed and armed.pop():
                raise KeyboardInterrupt
            return super().forward(x)

    model = nn.Sequential(nn.Linear(6, 6), Slow(6, 5))
    before = list(model.parameters())
    trained = kit.private(model, kit.vectors(), weighting=clip(0.3))
    x, y = one_batch(trained)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    wanted = trained.expected(x, y)
    kit.mean_loss(model(x), y).backward()
    kit.close(trained.grads, wanted)
    trained.engine.close()
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_eval_mode_and_plain_weights_raise(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3))
    x, y = one_batch(trained)
    trained.model.eval()
    with pytest.raises(RuntimeError, match=r"eval mode.*model\.train\(\)"):
        kit.mean_loss(trained.model(x), y).backward()
    trained.model.train()
    weight = trained.model.layers[0].weight
    with pytest.raises(RuntimeError, match=r"layers\.0\.weight.*used as a plain tensor"):
        (kit.mean_loss(trained.model(x), y) + weight.square().sum()).backward()
    with torch.no_grad():
        trained.model(x)


def test_tied_head_through_functional_linear_raises(kit):
    class Tied(kit.Transformer):
        def forward(self, x):
            h = self.norm(self.block(self.tokens(x)))
            return nn.functional.linear(h, self.tokens.weight)

    trained = kit.private(Tied(), kit.texts(), weighting=clip(0.3))
    x, y = one_batch(trained)
    with pytest.raises(RuntimeError, match="used as a plain tensor"):
        kit.mean_loss(trained.model(x), y).backward()


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.first, self.inner, self.reentrant = nn.Linear(6, 6), inner, reentrant

    def forward(self, x):
        x = self.first(x)
        if self.reentrant is None:
            return self.inner(x)
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(3)], ids=lambda g: g.label)
def test_checkpointing(kit, grouping):
    inner = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 5), nn.Tanh())
    plain = Checkpointed(inner, None)
    model = Checkpointed(copy.deepcopy(inner), False)
    model.load_state_dict(plain.state_dict())
    trained = kit.private(model, kit.vectors(), weighting=clip(0.3), grouping=grouping)
    trained.twin = kit.Twin(plain, clip(0.3))
    kit.agree(trained)
    trained.engine.close()
    model.reentrant = True
    trained = kit.private(model, kit.vectors(), weighting=clip(0.3), grouping=grouping)
    x, y = one_batch(trained)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        kit.mean_loss(model(x), y).backward()


def test_saved_input_changed_in_place_raises(kit):
    class Net(kit.Mlp):
        def forward(self, x):
            x = x * 1.0
            h = self.layers(x)
            x.add_(1.0)
            return h

    trained = kit.private(Net(), kit.vectors(), weighting=clip(0.3))
    x, y = one_batch(trained)
    with pytest.raises(RuntimeError, match=r"layers\.0 \(Linear\) was changed in place"):
        kit.mean_loss(trained.model(x), y).backward()


def _marks(thing):
    return {
        name: (len(value) if isinstance(value, dict) else type(value).__name__)
        for name, value in vars(thing).items()
    }


def test_close_leaves_no_trace(kit):
    model = kit.Transformer()
    keys, plain = list(model.state_dict()), copy.deepcopy(model)
    before = [_marks(m) for m in model.modules()], [dir(p) for p in model.parameters()]
    trained = kit.private(model, kit.texts(), weighting=clip(0.3))
    optimizer = _marks(trained.optimizer)
    assert list(model.state_dict()) == keys and trained.model is model
    kit.agree(trained, steps=2)
    trained.optimizer.zero_grad()
    trained.engine.close()
    assert ([_marks(m) for m in model.modules()], [dir(p) for p in model.parameters()]) == before
    assert all(not p._backward_hooks for p in model.parameters())
    after = _marks(trained.optimizer)
    assert after.pop("_optimizer_step_pre_hooks") == 0
    assert optimizer.pop("_optimizer_step_pre_hooks") == 1 and after == optimizer
    plain.load_state_dict(model.state_dict())
    x, y = kit.texts().tensors
    for m in (model, plain):
        kit.mean_loss(m(x), y).backward()
    kit.close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])


def test_made_private_twice(kit):
    data, model = kit.vectors(), kit.Mlp()
    trained = kit.private(model, data, weighting=clip(0.3))
    how = {"module": model, "optimizer": trained.optimizer, "noise_multiplier": 0.0}
    how |= {"data_loader": DataLoader(data, batch_size=8), "max_grad_norm": 1.0}
    with pytest.raises(ValueError, match="already trains a model"):
        trained.engine.make_private(**how)
    with pytest.raises(ValueError, match="already has grad-sample hooks"):
        PrivacyEngine().make_private(**how)
    kit.agree(trained, steps=2)
    trained.engine.close()
    _, _, loader = trained.engine.make_private(**how)
    x, y = next(iter(loader))
    kit.mean_loss(model(x), y).backward()
    assert len(trained.optimizer._optimizer_step_pre_hooks) == 1


def test_parameters_that_change_later_raise(kit):
    """Unfrozen ones would be trained without noise, frozen ones would get noise only."""
    model = kit.ConvNet()
    model.layers[0].requires_grad_(False)
    trained = kit.private(model, kit.images(), weighting=clip(0.3))
    x, y = one_batch(trained)
    model.layers[0].requires_grad_(True)
    trained.optimizer.add_param_group({"params": model.layers[0].parameters()})
    kit.mean_loss(model(x), y).backward()
    with pytest.raises(RuntimeError, match="2 parameters were frozen, unfrozen or added"):
        trained.optimizer.step()
    model = kit.Mlp()
    trained = kit.private(model, kit.vectors(), weighting=clip(0.3))
    x, y = one_batch(trained)
    kit.mean_loss(model(x), y).backward()
    model.layers[0].requires_grad_(False)
    with pytest.raises(RuntimeError, match="2 parameters were frozen"):
        trained.optimizer.step()


def test_slices_in_one_backward_raise(kit):
    """Two forwards over different halves would put two records into one group."""
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3), poisson_sampling=False)
    x, y = one_batch(trained)
    loss = kit.mean_loss(trained.model(x[:4]), y[:4]) + kit.mean_loss(trained.model(x[4:]), y[4:])
    with pytest.raises(RuntimeError, match=r"different batches or parts of one \(4 and 4"):
        loss.backward()


def test_two_pieces_in_one_backward_raise(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3), poisson_sampling=False)
    losses = [kit.mean_loss(trained.model(x), y) for x, y in trained.loader]
    with pytest.raises(RuntimeError, match="different batches"):
        sum(losses[:2]).backward()


def test_more_samples_than_were_yielded_raise(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3), poisson_sampling=False)
    one_batch(trained)
    with pytest.raises(RuntimeError, match="got 9 samples, but the loader yielded 8"):
        trained.model(torch.randn(9, 6))


def test_second_backward_through_one_graph_counts_again(kit):
    """For rules and for modules that are run again alike."""
    for layer in (nn.Linear(6, 5), nn.RNN(6, 5, batch_first=True)):

        class Net(nn.Module):
            def __init__(self, layer=layer):
                super().__init__()
                self.layer = layer

            def forward(self, x):
                out = self.layer(x[:, None])
                return (out[0] if isinstance(out, tuple) else out)[:, 0]

        trained = kit.private(Net(), kit.vectors(), weighting=clip(0.3))
        x, y = one_batch(trained)
        loss = kit.mean_loss(trained.model(x), y)
        loss.backward(retain_graph=True)
        once = trained.grads
        loss.backward()
        kit.close(trained.grads, [2 * g for g in once])
        assert any("count twice" in reason for reason in trained.inner.mechanism.ledger.reasons)


def test_float16_gradients_are_refused(kit):
    model = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 5))
    trained = kit.private(model.half(), kit.vectors(), weighting=clip(0.3))
    x, _y = one_batch(trained)
    with pytest.raises(RuntimeError, match=r"float16.*GradScaler.*bfloat16"):
        model(x.half()).float().sum().backward()


def test_zero_grad_of_both_kinds_and_none(kit):
    """Whoever zeroes gradients, and whether: a step's sum starts anew."""
    for zero in (
        lambda o: o.zero_grad(),
        lambda o: o.zero_grad(set_to_none=False),
        lambda o: None,
    ):
        for rule in (clip(0.3), clip_to_min()):
            trained = kit.private(kit.Mlp(), kit.vectors(), weighting=rule)
            for x, y in trained.loader:
                zero(trained.optimizer)
                wanted = trained.expected(x, y)
                kit.mean_loss(trained.model(x), y).backward()
                kit.close(trained.grads, wanted)
                trained.optimizer.step()
                trained.twin.follow(trained.model)


def test_step_with_a_closure(kit):
    results = []
    for closed in (False, True):
        torch.manual_seed(2)
        trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
        for x, y in trained.loader:

            def closure(x=x, y=y, trained=trained):
                trained.optimizer.zero_grad()
                loss = kit.mean_loss(trained.model(x), y)
                loss.backward()
                return loss

            if closed:
                loss = trained.optimizer.step(closure)
                assert loss.item() > 0
            else:
                closure()
                trained.optimizer.step()
        results.append([p.detach() for p in trained.model.parameters()])
        assert trained.engine.steps == len(trained.loader)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_tensors_only_as_keywords_and_without_any(kit):
    class Net(kit.Mlp):
        def forward(self, *, scale=2.0, x=None):
            return super().forward(scale * (torch.zeros(3, 6) if x is None else x))

    trained = kit.private(Net(), kit.vectors(), weighting=clip(0.3))
    x, y = one_batch(trained)
    kit.mean_loss(trained.model(x=x, scale=1.0), y).backward()
    with pytest.raises(RuntimeError, match="No input tensor with a batch axis"):
        trained.model(scale=1.0)


def test_submodules_called_without_the_model(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3))
    x, y = one_batch(trained)
    wanted = trained.expected(x, y)
    first, middle, last = trained.model.layers
    kit.mean_loss(last(middle(first(x))), y).backward()
    kit.close(trained.grads, wanted)


def test_copy_of_a_private_model_evaluates(kit):
    """Averaged weights deep-copy the model."""
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3))
    twin = copy.deepcopy(trained.model).eval()
    x = torch.randn(3, 6)
    assert torch.equal(twin(x), trained.model.eval()(x))


def test_plan(kit):
    trained = kit.private(kit.ConvNet(), kit.images(), weighting=clip(0.3))
    lines = trained.engine.plan().splitlines()
    assert lines[0].split()[:3] == ["layer", "type", "parameters"]
    assert lines[2].split()[:3] == ["layers.0", "Conv2d", "76"]
    assert "rule for groups" in lines[-1]


def test_private_dataset_of_one(kit):
    data = TensorDataset(torch.randn(1, 6), torch.zeros(1, dtype=torch.int64))
    trained = kit.private(kit.Mlp(), data, batch_size=1, weighting=clip(0.3))
    kit.agree(trained, steps=2)
