"""Each kind of layer equals the loop twin, whatever rule forms its rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import nn
from torch.utils.data import TensorDataset

from dpclip import clip, micro_batches, per_sample, uniform


class Apply(nn.Module):
    """A layer between two others; `how` calls it, the rest is averaged away."""

    def __init__(self, layer, how=None, before=None):
        super().__init__()
        self.layer = layer
        self.before = before or nn.Identity()
        self.how = how or (lambda m, x: m(x))

    def forward(self, x):
        out = self.how(self.layer, self.before(x))
        return torch.tanh(out).flatten(1)


def square(output, _y):
    """A loss that touches every output, averaged over samples only."""
    weight = torch.linspace(0.5, 1.5, output[0].numel()).view(output[0].shape)
    return (output.square() * weight).flatten(1).sum(1).mean()


def first_axis_time(output, _y):
    return square(output.transpose(0, 1), _y)


def check(kit, model, x, *, batch_size=5, loss=square, steps=4, groupings=None, **how):
    """Compares p.grad with the twin for per-sample and micro-batch clipping."""
    import copy

    data = TensorDataset(x, torch.zeros(len(x)))
    for grouping in groupings or (per_sample(), micro_batches(2)):
        trained = kit.private(
            copy.deepcopy(model),
            data,
            batch_size=batch_size,
            grouping=grouping,
            weighting=clip(0.2),
            **how,
        )
        trained.twin.loss = loss
        kit.agree(trained, steps=steps, loss=loss)
        for p in trained.inner.params:
            assert p.grad.abs().max() > 0
    return trained


CONVS = [
    nn.Conv1d(4, 6, 3, padding=1),
    nn.Conv1d(4, 6, 4, padding="same", dilation=2),
    nn.Conv1d(4, 8, 2, stride=3, groups=4, bias=False),
    nn.Conv2d(4, 6, 3, padding=(1, 0), stride=2),
    nn.Conv2d(4, 8, (2, 3), dilation=2, groups=2),
    nn.Conv2d(4, 4, (3, 4), padding="same", dilation=(1, 2), groups=4),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    nn.Conv3d(4, 2, 2, padding=1, stride=(1, 2, 1)),
    nn.Conv3d(4, 4, 2, dilation=(2, 1, 2), groups=2),
    nn.Conv3d(4, 2, 3, padding="same"),
    nn.ConvTranspose1d(4, 3, 3, stride=2),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
]


@pytest.mark.parametrize("together", [1, 50, 10**6])
@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_convolution(kit, conv, together, monkeypatch):
    """Whichever of the two ways is taken."""
    monkeypatch.setattr("dpclip.parts.convolved._TOGETHER", together)
    dims = int(type(conv).__name__[-2])
    x = torch.randn(20, 4, *(7, 6, 5)[:dims])
    conv.double()
    check(kit, Apply(conv), x)
    check(kit, nn.Sequential(conv, nn.ReLU(inplace=True)), x)


@pytest.mark.parametrize("together", [1, 50, 10**6])
def test_convolution_of_channels_last(kit, together, monkeypatch):
    """Opacus' unfold reads strides as if the tensor were contiguous."""
    monkeypatch.setattr("dpclip.parts.convolved._TOGETHER", together)
    conv = nn.Conv2d(4, 6, 3)
    x = torch.randn(20, 4, 7, 6)
    check(kit, Apply(conv, lambda m, x: m(x.to(memory_format=torch.channels_last))), x)
    check(kit, Apply(conv, lambda m, x: m(x.transpose(2, 3))), x)


NORMS = [
    (nn.LayerNorm(6), (4, 6)),
    (nn.LayerNorm((4, 6), eps=0.1), (4, 6)),
    (nn.LayerNorm(6, bias=False), (4, 6)),
    (nn.GroupNorm(2, 4), (4, 6)),
    (nn.GroupNorm(2, 4, eps=0.1), (4, 3, 2)),
    (nn.InstanceNorm1d(4, affine=True), (4, 6)),
    (nn.InstanceNorm2d(4, affine=True, eps=0.1), (4, 3, 2)),
    (nn.InstanceNorm3d(4, affine=True), (4, 3, 2, 2)),
    (nn.RMSNorm(6), (4, 6)),
    (nn.RMSNorm((4, 6), eps=0.1), (4, 6)),
]


@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=str)
def test_norm(kit, norm, shape):
    norm.double()
    for p in norm.parameters():
        nn.init.normal_(p)
    check(kit, Apply(norm, before=nn.Linear(shape[-1], shape[-1])), torch.randn(20, *shape))


@pytest.mark.parametrize("axes", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_linear_of_any_rank(kit, axes):
    trained = check(kit, Apply(nn.Linear(4, 3)), torch.randn(20, *axes))
    assert trained.engine.plan().count("rule for groups") == 1


def bag(how):
    return Apply(nn.EmbeddingBag(7, 3, mode=how), lambda m, x: m(x.long()))


def flat_bag(m, x):
    offsets = torch.arange(len(x)) * x.shape[1]
    return m(x.long().flatten(), offsets)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("pad", [None, 2])
def test_embedding_bag(kit, mode, pad):
    """A bag that holds an id twice counts it twice."""
    x = torch.randint(7, (30, 6)).double()
    x[:, 1] = x[:, 0]
    layer = nn.EmbeddingBag(7, 3, mode=mode, padding_idx=pad)
    nn.init.normal_(layer.weight)
    check(kit, Apply(layer, lambda m, x: m(x.long())), x)
    check(kit, Apply(layer, flat_bag), x)


def test_embedding_bag_with_weights(kit):
    x = torch.randint(7, (30, 6)).double()
    layer = nn.EmbeddingBag(7, 3, mode="sum")

    def weighted(m, x):
        return m(x.long(), per_sample_weights=x / 7 + 0.1)

    check(kit, Apply(layer, weighted), x)


def test_embedding_bag_max_is_refused(kit):
    x = torch.randint(7, (30, 6)).double()
    with pytest.raises(ValueError, match="mode='sum' or 'mean'"):
        check(kit, Apply(nn.EmbeddingBag(7, 3, mode="max"), lambda m, x: m(x.long())), x)


def test_embedding_padding_and_frequency(kit):
    x = torch.randint(5, (30, 4)).double()
    padded = nn.Embedding(5, 3, padding_idx=1)
    nn.init.normal_(padded.weight)  # at zero, this loss has no gradient to be left out
    check(kit, Apply(padded, lambda m, x: m(x.long())), x)
    with pytest.raises(ValueError, match="scale_grad_by_freq"):
        layer = nn.Embedding(5, 3, scale_grad_by_freq=True)
        check(kit, Apply(layer, lambda m, x: m(x.long())), x)


def test_one_id_per_sample(kit):
    """Ids [B], a class label: also where B is the embedding's width or its number of words."""
    x = torch.randint(5, (40, 1)).double()
    check(kit, Apply(nn.Embedding(5, 5), lambda m, x: m(x[:, 0].long())), x, steps=12)


class Places(nn.Module):
    """Positions added to what a sample holds."""

    def __init__(self, time, form):
        super().__init__()
        self.places, self.out, self.form = nn.Embedding(time, 3), nn.Linear(3, 2), form

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        places = {
            "T": lambda: self.places(steps),
            "1T": lambda: self.places(steps[None]),
            "unsqueezed": lambda: self.places(steps).unsqueeze(0),
            "offset": lambda: self.places(steps.flip(0)),
            "BT": lambda: self.places(steps.expand(len(x), -1)),
        }[self.form]()
        return self.out(x + places)


@pytest.mark.parametrize("form", ["T", "1T", "offset", "BT"])
@pytest.mark.parametrize("size", [5, 4, 1])
def test_positions(kit, form, size):
    """T = 4, with B = 4 in the first batch, always, or never; and one sample alone."""
    x = torch.randn(20, 4, 3)
    check(
        kit, Places(4, form), x, batch_size=size, poisson_sampling=False, groupings=[per_sample()]
    )
    check(kit, Places(4, form), x, batch_size=size + 1, steps=8)


@pytest.mark.parametrize("size", [5, 4])
def test_positions_that_get_another_axis_raise(kit, size):
    """The added batch axis must not change what the model computes; every time, not only once."""
    model = Places(4, "unsqueezed")
    trained = kit.private(
        model, TensorDataset(torch.randn(20, 4, 3)), batch_size=size, poisson_sampling=False
    )
    (x,) = next(iter(trained.loader))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="leading axis of 1"):
            model(x)


def test_positions_without_the_model_around_them(kit):
    """A submodule called by itself: nobody can be asked whether [T] with T == B are positions."""
    model = Places(5, "T")
    trained = kit.private(
        model, TensorDataset(torch.randn(10, 5, 3)), batch_size=5, poisson_sampling=False
    )
    for (_x,) in trained.loader:
        with pytest.raises(RuntimeError, match="Give positions a leading axis of 1"):
            model.places(torch.arange(5))
        break


class Inside(nn.Module):
    """[B, T, d] outside, [T, B, d] inside."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.two(torch.tanh(self.norm(self.one(x.transpose(0, 1))))).transpose(0, 1)


@pytest.mark.parametrize("time", [1, 4, 5])
def test_time_first_inside(kit, time):
    """Also where the first batch has T == B, or T == 1."""
    x = torch.randn(20, time, 3)
    check(kit, Inside(), x, batch_size=4, poisson_sampling=False)
    check(kit, Inside(), x, batch_size=4, steps=8)


class Constant(nn.Module):
    """A layer over something that is the same for all samples."""

    def __init__(self, lead):
        super().__init__()
        self.code, self.out = nn.Linear(2, 3), nn.Linear(3, 2)
        self.register_buffer("steps", torch.randn(*lead, 4, 2))

    def forward(self, x):
        return self.out(x * 2.0 + self.code(self.steps))


class Keys(nn.Module):
    """One layer for the samples and for T learned-from constants, T == B or not."""

    def __init__(self, time):
        super().__init__()
        self.shared, self.out = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("constants", torch.randn(time, 4))

    def forward(self, x):
        queries, keys = self.shared(x), self.shared(self.constants)
        return self.out((queries @ keys.T).softmax(-1) @ keys)


@pytest.mark.parametrize("time", [5, 7])
def test_layer_over_samples_and_then_over_a_constant(kit, time):
    with pytest.raises(RuntimeError, match="no axis has the batch's 5 samples"):
        check(kit, Keys(time), torch.randn(20, 4), poisson_sampling=False)


def test_layer_over_a_constant(kit):
    """[1, T, d] gets a batch axis; [T, d] raises, also where T == B looks like a batch."""
    x = torch.randn(20, 4, 3)
    check(kit, Constant([1]), x, batch_size=4, poisson_sampling=False)
    for size in (4, 5):
        with pytest.raises(RuntimeError, match="a leading axis of 1"):
            check(kit, Constant([]), x, batch_size=size, poisson_sampling=False)


def test_the_probe_leaves_random_numbers_alone(kit):
    model = Inside()
    trained = kit.private(
        model, TensorDataset(torch.randn(20, 4, 3)), batch_size=4, poisson_sampling=False
    )
    (x,) = next(iter(trained.loader))
    before = torch.get_rng_state()
    model(x)
    assert torch.equal(before, torch.get_rng_state())


class TimeFirst(nn.Module):
    """batch_first=False everywhere."""

    def __init__(self):
        super().__init__()
        self.tokens, self.rnn = nn.Embedding(7, 4), nn.LSTM(4, 5)
        self.attention, self.head = nn.MultiheadAttention(5, 1), nn.Linear(5, 3)
        self.last = nn.Linear(5, 5)

    def forward(self, x):
        h, _ = self.rnn(self.tokens(x))
        mixed, _ = self.attention(h, h, h)
        return self.head(torch.tanh(h + mixed)), self.last(h[-1])


@pytest.mark.parametrize("time", [4, 5])
def test_batch_second(kit, time):
    def split(batch):
        return torch.stack([b[0] for b in batch], 1), torch.zeros(len(batch))

    import copy

    from torch.utils.data import DataLoader

    from dpclip import PrivacyEngine

    model = TimeFirst()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    data = TensorDataset(torch.randint(7, (30, time)))
    model, optimizer, loader = PrivacyEngine(seed=0).make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=5, collate_fn=split),
        noise_multiplier=0.0,
        max_grad_norm=0.1,
        batch_first=False,
    )

    def loss(outputs):
        return (outputs[0].square().sum((0, 2)) + outputs[1].square().sum(1)).mean()

    for x, _ in loader:
        optimizer.zero_grad()
        loss(model(x)).backward()
        total = [torch.zeros_like(p) for p in plain.parameters()]
        for i in range(x.shape[1]):
            row = torch.autograd.grad(loss(plain(x[:, i : i + 1])), list(plain.parameters()))
            norm = torch.cat([r.flatten() for r in row]).norm()
            total = [t + (0.1 / norm).clamp(max=1) * r / 5 for t, r in zip(total, row, strict=True)]
        kit.close([p.grad for p in model.parameters()], total)
        optimizer.step()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(kit, kind, layers):
    """The states are [layers, B, H] whatever batch_first says; B == layers and B == T occur."""
    rnn = kind(3, 4, num_layers=layers, batch_first=True, bidirectional=layers == 2)

    def both(m, x):
        h, states = m(x)
        last = states[0] if isinstance(states, tuple) else states
        return torch.cat([h.mean(1), last[-1]], 1)

    trained = check(kit, Apply(rnn, both), torch.randn(20, 3, 3), batch_size=3, steps=6)
    trained.engine.close()
    names = dict(rnn.named_parameters())
    assert all(isinstance(w, nn.Parameter) for w in rnn._flat_weights)
    assert all(rnn._parameters[n] is p for n, p in names.items())


def test_dp_lstm(kit):
    for first in (True, False):
        rnn = DPLSTM(3, 4, batch_first=first)

        def run(m, x, first=first):
            return m(x)[0] if first else m(x.transpose(0, 1))[0].transpose(0, 1)

        check(kit, Apply(rnn, run), torch.randn(20, 5, 3), batch_size=4)


def self_attention(m, x):
    return m(x, x, x)[0]


def test_dp_attention(kit):
    for first in (True, False):
        attention = DPMultiheadAttention(4, 2, batch_first=first, add_bias_kv=True)
        for p in attention.parameters():
            nn.init.normal_(p)

        def run(m, x, first=first):
            if first:
                return self_attention(m, x)
            return self_attention(m, x.transpose(0, 1)).transpose(0, 1)

        check(kit, Apply(attention, run), torch.randn(20, 3, 4), batch_size=5)


@pytest.mark.parametrize("bias_kv", [False, True])
def test_attention_with_masks(kit, bias_kv):
    """attn_mask [T, T] is shared, key_padding_mask [B, T] is not, even where T == B."""
    attention = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=bias_kv)

    def masked(m, x):
        t = x.shape[1]
        causal = torch.full((t, t), float("-inf")).triu(1)
        empty = torch.where(x[..., 0] > 1.0, -1e3, 0.0)
        return m(x, x, x, key_padding_mask=empty, attn_mask=causal)[0]

    x = torch.randn(20, 4, 4)
    check(kit, Apply(attention, masked), x, batch_size=4, poisson_sampling=False)
    check(kit, Apply(attention, masked), x, batch_size=4, steps=8)


def test_encoder_layer(kit):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    check(kit, Apply(layer), torch.randn(20, 3, 4), batch_size=3)


class Bare(nn.Module):
    """Parameters at the root and at a child that has children."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, 4))
        self.scale = nn.Parameter(torch.randn(3))
        self.child = Scaled()

    def forward(self, x):
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        return torch.tanh(self.child(x)) * self.scale


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.by = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.linear(x) * self.by


def test_bare_parameters(kit):
    """A Parameter at the root is captured where it is used, and its children by their rules."""
    trained = check(kit, Bare(), torch.randn(20, 5, 4))
    plan = trained.engine.plan()
    assert plan.count("operations") == 2 and plan.count("rule for groups") == 1


class Given(nn.Module):
    """A module without inputs: a class token [1, 1, d]."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self):
        return self.token


class WithToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.given, self.out = Given(), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.cat([self.given().expand(len(x), 1, 4), x], 1))


def test_module_without_inputs(kit):
    check(kit, WithToken(), torch.randn(20, 3, 4))


def test_evaluation_before_training_teaches_nothing(kit):
    data = TensorDataset(torch.randn(20, 3, 4), torch.zeros(20))
    trained = kit.private(WithToken(), data, batch_size=5, weighting=clip(0.2))
    trained.twin.loss = square
    trained.model.eval()(data.tensors[0])
    with torch.no_grad():
        trained.model.train()(data.tensors[0])
    kit.agree(trained, steps=2, loss=square)


class Conv1D(nn.Module):
    """The transposed Linear of GPT-2."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, 4), self.weight).view(*x.shape[:-1], 3)


def test_unknown_layer(kit):
    trained = check(kit, Apply(Conv1D()), torch.randn(20, 5, 4))
    assert "the operations on its parameters" in trained.engine.plan()


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x * self.weight.square()


def test_sampler_registered_by_a_user(kit):
    def sampler(layer, activations, backprops):
        return {layer.weight: 2 * layer.weight * activations[0] * backprops}

    register_grad_sampler(Doubled)(sampler)
    try:
        trained = check(kit, Apply(Doubled()), torch.randn(20, 3))
        assert "sampler registered with Opacus" in trained.engine.plan()
    finally:
        del GradSampleHooks.GRAD_SAMPLERS[Doubled]


class Reused(nn.Module):
    """One layer used twice, one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.own = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), Conv1D()
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.own(self.b(torch.tanh(self.a(torch.tanh(self.a(x))))))


def test_reused_and_tied(kit):
    check(kit, Reused(), torch.randn(20, 4))


def test_two_forwards_one_backward(kit):
    """A siamese network: both forwards see the whole batch."""
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3))
    x, y = next(iter(trained.loader))

    def twice(model):
        return lambda x: model(x) * model(-x)

    kit.mean_loss(twice(trained.model)(x), y).backward()
    plain, trained.twin.model = trained.twin.model, None
    trained.twin.model = twice(plain)
    kit.close(trained.grads, trained.expected(x, y))


def test_frozen_first_layer_and_biases_only(kit):
    model = kit.ConvNet()
    model.layers[0].requires_grad_(False)
    trained = kit.private(model, kit.images(), weighting=clip(0.3))
    kit.agree(trained)
    assert model.layers[0].weight.grad is None
    model = kit.Transformer()
    for name, p in model.named_parameters():
        p.requires_grad_("bias" in name)
    kit.agree(kit.private(model, kit.texts(), weighting=clip(0.3)))
    model = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    for name, p in model.named_parameters():
        p.requires_grad_("bias" in name)
    wrapped = Apply(model[0], lambda m, x: m(x)[0])
    check(kit, wrapped, torch.randn(20, 3, 3))


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return F.dropout(x * self.weight, 0.5)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return (x - x.mean(0)) * self.weight


def test_module_that_mixes_samples_raises(kit):
    with pytest.raises(RuntimeError, match="samples are mixed"):
        check(kit, Apply(Mixing()), torch.randn(20, 8))


def test_random_module_without_rule_draws_once(kit):
    """What dropped out in the forward is what dropped out of the gradient."""
    trained = kit.private(Dropped(), TensorDataset(torch.rand(20, 8) + 0.5), weighting=uniform())
    (x,) = next(iter(trained.loader))
    out = trained.model(x)
    out.sum(1).mean().backward()
    wanted = (2 * x * (out.detach() != 0)).sum(0) / trained.inner.yielded.divisor.groups
    kit.close(trained.grads, [wanted])


def test_dropout_between_layers_is_fine(kit):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    trained = kit.private(model, TensorDataset(torch.randn(20, 4)), weighting=clip(0.1))
    (x,) = next(iter(trained.loader))
    model(x).square().sum(1).mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


class Flattened(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(3, width)

    def forward(self, x):
        return self.linear(x.flatten(0, 1)).view(len(x), -1)


@pytest.mark.parametrize("width", [2, 5])
def test_samples_folded_into_another_axis_raise(kit, width):
    """[B T, d]: also where d == B looks like a batch axis."""
    with pytest.raises(RuntimeError, match="no axis has the batch's 5 samples"):
        check(kit, Flattened(width), torch.randn(20, 2, 3), poisson_sampling=False)


class Boxed(nn.Module):
    class Box:
        def __init__(self, value):
            self.value = value

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return Boxed.Box(x * self.weight)


@pytest.mark.parametrize("shape", [(20, 4), (20, 3, 4), (20, 2, 3, 4)])
def test_activation_in_place_on_a_view(kit, shape):
    """A linear layer on [B, T, d] returns a view, whose hooks an in-place operation drops."""
    layers = [nn.Linear(4, 4), nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)]
    check(kit, nn.Sequential(*layers), torch.randn(*shape))


class Half(nn.Linear):
    """Returns a part of what it computes, as a view."""

    def forward(self, x):
        return super().forward(x)[..., : self.out_features // 2]


def test_view_of_a_part_changed_in_place(kit):
    def sampler(layer, activations, backprops):
        full = torch.cat([backprops, torch.zeros_like(backprops)], -1)
        return {layer.weight: torch.einsum("nto,nti->noi", full, activations[0])}

    register_grad_sampler(Half)(sampler)
    layers = [nn.Linear(4, 4), Half(4, 8, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 2)]
    check(kit, nn.Sequential(*layers), torch.randn(20, 3, 4))


def test_output_that_cannot_be_looked_into(kit):
    """Is no matter for operations, and an error for a layer with a rule."""
    check(kit, Apply(Boxed(), lambda m, x: m(x).value), torch.randn(20, 3))

    class Odd(nn.Linear):
        def forward(self, x):
            return Boxed.Box(super().forward(x))

    def sampler(layer, activations, backprops):
        return {layer.weight: torch.einsum("no,ni->noi", backprops, activations[0])}

    register_grad_sampler(Odd)(sampler)
    with pytest.raises(RuntimeError, match="no floating-point tensor was found"):
        check(kit, Apply(Odd(3, 2, bias=False), lambda m, x: m(x).value), torch.randn(20, 3))


def test_input_that_is_handed_through_stays_as_it_was(kit):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return x, x * self.weight

    trained = kit.private(Apply(Skip(), lambda m, x: sum(m(x))), TensorDataset(torch.randn(9, 3)))
    (x,) = next(iter(trained.loader))
    before = x.clone()
    trained.model(x).sum().backward()
    assert not x.requires_grad and x.grad is None and torch.equal(x, before)


def test_outputs_in_containers(kit):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return {"a": x * self.weight, "rest": (x.sum(1, keepdim=True) + self.weight, None, 3)}

    def join(m, x):
        out = m(x)
        return torch.cat([out["a"], out["rest"][0]], 1)

    check(kit, Apply(Many(), join), torch.randn(20, 3))


def test_bfloat16_autocast(kit):
    """Rules and modules that are run again, under autocast: equal to autocast training."""
    import copy

    torch.set_default_dtype(torch.float32)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), Conv1D2(8))
    plain = copy.deepcopy(model)
    trained = kit.private(model, TensorDataset(torch.randn(20, 4)), batch_size=6)
    (x,) = next(iter(trained.loader))
    with torch.autocast("cpu", torch.bfloat16):
        loss, other = model(x).float().square().mean(), plain(x).float().square().mean()
    loss.backward()
    other.backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert (p.grad * 6 / len(x) - q.grad).abs().max() <= 0.02 * q.grad.abs().max()


class Conv1D2(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 3))

    def forward(self, x):
        return x @ self.weight
