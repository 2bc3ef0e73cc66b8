"""What cannot be captured says so, and whatever happens the model stays as it was."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpclip.ops import Capture


class Middle(nn.Module):
    """A function of x and of a parameter, between two layers."""

    def __init__(self, how, *shape):
        super().__init__()
        self.before, self.inner = nn.Linear(4, 4), Bare(how, *shape)

    def forward(self, x):
        return self.inner(self.before(x))


class Bare(nn.Module):
    def __init__(self, how, *shape):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.rand(*shape or (4,))), how

    def forward(self, *x):
        return self.how(*x, self.weight)


class Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w, (g * x).sum((0, 1))


def written(x, w):
    y = torch.zeros(len(x), 4, 4)
    y[:, 0] = w
    y[:, 1:] = x
    return y


def written_through_a_view(x, w):
    y = torch.zeros(len(x), 4, 4)
    y[:, 0].copy_(w)
    y[:, 1:].copy_(x)
    return y


REFUSED = {
    "random": (
        lambda x, w: (
            F.scaled_dot_product_attention(x, w * x, x, dropout_p=0.5) * 0
            + F.scaled_dot_product_attention(
                x, x, (w + torch.zeros(3, 4)).expand(x.shape), None, 0.5
            )
        ),
        r"inner \(Bare\).*draw random numbers",
    ),
    "mixing before": (lambda x, w: (x - x.mean(0)) * w, "samples are mixed"),
    "mixing inside": (lambda x, w: torch.einsum("btd,ctd,d->bt", x, x, w), "samples are mixed"),
    "autograd function": (
        lambda x, w: Times.apply(x, w),
        "custom autograd.Function or TorchScript",
    ),
    "assignment": (written, "changes a tensor in place by __setitem__"),
    "assignment to a view": (written_through_a_view, "by assigning it to a part of another"),
    "in place": (lambda x, w: (x * 1).addcmul_(x, w), r"in place by addcmul_.*'weight'"),
    "parameter in place": (lambda x, w: (w * 1).mul_(x[0, 0]), "in place by mul_"),
    "across the batch": (lambda x, w: (x.flatten(1).t() @ x.flatten(1)) * w[0], "no axis has"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_refused(check, how):
    function, message = REFUSED[how]
    with pytest.raises(RuntimeError, match=message):
        check(Middle(function), torch.randn(5, 3, 4))


def test_weight_that_leaves_the_model_is_refused(check):
    """With the gradient, since it may not matter."""
    model = Middle(lambda x, w: (x * w, w * 2))
    check.engine(model, torch.arange(5))
    out, weight = model(torch.randn(5, 3, 4))
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="after its forward"):
        (out.sum() + weight.sum()).backward()


def test_script_is_refused(check):
    def times(x, w):
        return x * w

    with pytest.warns(DeprecationWarning):
        times = torch.jit.script(times)
    model = Middle(times)
    check.engine(model, torch.arange(5))
    with pytest.raises(RuntimeError, match="TorchScript"):
        model(torch.randn(5, 3, 4)).sum().backward()


def test_input_changed_in_place_raises(check):
    def changed(x, w):
        x = x * 1.0
        y = (x * w).sin()
        x.add_(1.0)
        return y

    with pytest.raises(RuntimeError, match=r"inner \(Bare\) was changed in place.*out-of-place"):
        check(Middle(changed), torch.randn(5, 3, 4))


def test_activation_in_place_is_fine(check):
    check(Middle(lambda x, w: torch.relu_(x * w)), torch.randn(5, 3, 4))
    check(Bare(lambda x, w: torch.relu_(x * w)), torch.randn(5, 3, 4))
    check(Middle(lambda x, w: torch.relu_(F.bilinear(x, x, w)), 4, 4, 4), torch.randn(5, 3, 4))


def test_ambiguous_without_the_model_raises(check):
    """[T, B, d] or [B, T, d]? Nobody can be asked when the module is called by itself."""
    model = Middle(lambda x, w: x * w)
    engine = None

    def call(rows, time):
        nonlocal engine
        engine = check.engine(model, torch.arange(rows))
        return model.inner(torch.randn(rows, time, 4, requires_grad=True))

    call(3, 5).sum().backward()
    assert engine.rows[model.inner.weight].shape == (3, 4)
    with pytest.raises(RuntimeError, match="several places, and running"):
        call(3, 3)


@pytest.mark.parametrize("rows", [5, 3, 4])
def test_constants(check, rows):
    """Buffers, frozen parameters, factories and what is computed of them belong to no sample."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.frozen = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(3, 4))
            self.frozen.requires_grad_(False)
            self.register_buffer("fixed", torch.rand(3, 4))
            self.plain = torch.rand(3, 4)  # nobody knows what this is; with T == B a trial tells

        def forward(self, x):
            mask = torch.ones(3, 3).tril() @ self.fixed
            own = (
                self.weight * self.fixed + self.frozen * self.weight + mask.cumsum(0) * self.weight
            )
            return x * own + self.plain * self.weight

    check(Net(), torch.randn(rows, 3, 4))


def test_padding_rows_are_left_out(check):
    model = Middle(lambda x, w: F.bilinear(x, x, w) + x * w[0, 0] @ w[1], 4, 4, 4)
    x = torch.randn(4, 3, 4)
    whole = check.engine(model, torch.tensor([0, 1, 1, 2]))
    model(x[[0, 1, 2, 3]]).sin().sum().backward()
    wanted = whole.rows[model.inner.weight][:2]
    x[3] = float("nan")
    part = check.engine(model, torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 1, 0]) > 0)
    model(x).sin().sum().backward()
    torch.testing.assert_close(part.rows[model.inner.weight], wanted)


def test_second_backward_counts_again(check):
    model = Middle(lambda x, w: x * w.exp() + F.bilinear(x, x, w.expand(4, 4, 4)))
    engine = check.engine(model, torch.arange(5))
    loss = model(torch.randn(5, 3, 4)).sin().sum()
    loss.backward(retain_graph=True)
    once = engine.rows[model.inner.weight]
    loss.backward()
    torch.testing.assert_close(engine.rows[model.inner.weight], once)


def test_backward_that_is_cut_short(check):
    def fail(grad):
        if armed.pop():
            raise ArithmeticError

    class Net(Middle):
        def forward(self, x):
            x = self.before(x)
            x.register_hook(fail)
            return self.inner(x)

    armed = [False, True]
    model = Net(lambda x, w: x * w.exp() + F.bilinear(x, x, w.expand(4, 4, 4)))
    engine = check.engine(model, torch.arange(5))
    loss = model(torch.randn(5, 3, 4)).sin().sum()
    with pytest.raises(ArithmeticError):
        loss.backward(retain_graph=True)
    engine.groups = None
    loss.backward(retain_graph=True)
    once = engine.rows[model.inner.weight]
    armed.append(False)
    loss.backward()
    torch.testing.assert_close(engine.rows[model.inner.weight], once)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_exception_in_forward(check, error):
    """Modules run no hooks for a KeyboardInterrupt; the next forward puts things right."""
    armed = [True]

    def fail(x, w):
        if armed and armed.pop():
            raise error
        return x * w

    model = Middle(fail)
    params = list(model.parameters())
    engine = check.engine(model, torch.arange(5))
    with pytest.raises(error):
        model(torch.randn(5, 3, 4))
    if error is KeyError:
        assert torch._C._len_torch_function_stack() == 0
        assert all(a is b for a, b in zip(params, model.parameters(), strict=True))
    model(torch.randn(5, 3, 4)).sin().sum().backward()
    assert torch._C._len_torch_function_stack() == 0
    assert engine.rows[model.inner.weight].any()
    assert all(a is b for a, b in zip(params, model.parameters(), strict=True))


def test_nothing_leaks(check):
    model = Middle(lambda x, w: torch.cat([x * w.exp(), F.bilinear(x, x, w.expand(4, 4, 4))], 1))
    check.engine(model, torch.arange(5))
    x = torch.randn(5, 3, 4)
    kept = weakref.ref(model(x))
    assert kept() is None  # by counting alone
    model(x).sum().backward()

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    before = tensors()
    for _ in range(3):
        model(x)
    assert tensors() == before


def test_autocast(check):
    """Equal to what autocast training computes, up to bfloat16."""
    torch.set_default_dtype(torch.float32)

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.weight = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.scale = nn.Parameter(torch.rand(4))

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                h = self.before(x)
                h = h + self.attention(h, h, h)[0] * self.scale
                h = torch.addmm(self.scale, h.flatten(0, 1), self.weight).view_as(x)
                return F.bilinear(h, h, self.weight.exp().expand(2, 4, 4).to(h.dtype)).float()

    check(Cast(), torch.randn(6, 3, 4), rtol=0.3)


def test_a_model_that_cannot_be_tried(check):
    """It is left to the sizes, where they are enough."""

    class Once(Middle):
        calls = 0

        def forward(self, x):
            Once.calls += 1
            if Once.calls > 1:
                raise KeyError
            return super().forward(x)

    model = Once(lambda x, w: x * w)
    engine = check.engine(model, torch.arange(5))
    model(torch.randn(5, 3, 4)).sum().backward()
    assert engine.rows[model.inner.weight].shape == (5, 4) and engine.trials == 1
    Once.calls = 0
    engine = check.engine(model, torch.arange(3))
    with pytest.raises(RuntimeError, match="several places"):
        model(torch.randn(3, 3, 4).transpose(0, 1))


def test_trials_are_rare_and_leave_no_trace(check):
    def noisy(x, w):
        return F.dropout(x * w, 0.5)

    model = Middle(noisy)
    engine = check.engine(model, torch.arange(4))
    before = torch.get_rng_state()
    torch.set_rng_state(before)
    first = model(x := torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0)))
    torch.set_rng_state(before)
    assert engine.trials == 1
    assert torch.equal(first, model(x)) and engine.trials == 1
    assert isinstance(engine.capture, Capture)
