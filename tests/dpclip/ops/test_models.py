"""Modules as people write them, each equal to the twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from torch import nn
from torch.utils.checkpoint import checkpoint


class Scaled(nn.Module):
    """Layer scale, LoRA, RMSNorm and Conv1D in a residual branch, with dropout between."""

    def __init__(self, d):
        super().__init__()
        self.norm, self.mix, self.low = Rms(d), Conv1D(d, 2 * d), Low(2 * d, d)
        self.gamma = nn.Parameter(torch.randn(d))

    def forward(self, x):
        h = F.dropout(torch.tanh(self.mix(self.norm(x))), 0.3)
        return x + F.dropout(self.gamma * self.low(h), 0.2)


class Rms(nn.Module):
    """As in Llama, and with `one` as in Gemma."""

    def __init__(self, d, one=False):
        super().__init__()
        self.weight, self.one = nn.Parameter(torch.rand(d)), one

    def forward(self, x):
        kept = x.dtype
        x = x.to(torch.promote_types(kept, torch.float32))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        if self.one:
            return (x * (1.0 + self.weight.to(x.dtype))).to(kept)
        return self.weight * x.to(kept)


class Conv1D(nn.Module):
    """The transposed Linear of GPT-2: samples and positions folded."""

    def __init__(self, i, o):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(i, o)), nn.Parameter(torch.randn(o))

    def forward(self, x):
        shape = (*x.shape[:-1], len(self.bias))
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(shape)


class Low(nn.Module):
    """A frozen Linear with a trained product of two thin matrices beside it."""

    def __init__(self, i, o):
        super().__init__()
        self.base = nn.Linear(i, o)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(i, 2)), nn.Parameter(torch.randn(2, o))

    def forward(self, x):
        return self.base(x) + (F.dropout(x, 0.1) @ self.a @ self.b) * 0.7


class Vit(nn.Module):
    """Class token and positions at the root; positions cut to the length of the input."""

    def __init__(self, d=4):
        super().__init__()
        self.patch = nn.Conv1d(3, d, 2, stride=2)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 9, d))
        self.blocks = nn.Sequential(Scaled(d), Scaled(d))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 5)

    def forward(self, x):
        x = self.patch(x).transpose(1, 2)
        x = torch.cat((self.cls.expand(len(x), -1, -1), x), dim=1)
        x = F.dropout(x + self.pos[:, : x.shape[1]], 0.1)
        return self.head(self.norm(self.blocks(x))[:, 0])


@pytest.mark.parametrize("rows", [6, 5, 4, 1])
def test_vit(check, rows):
    """T = 5 with the token, d = 4: B = T, B = d, B = 1."""
    check(Vit(), torch.randn(rows, 3, 8))


@pytest.mark.parametrize("rows", [6, 3, 2])
def test_folded(check, rows):
    """[B T, d] of [B, T, d] and of [T, B, d], with B = T and T = 2 B."""
    for time in (3, 4, 1):
        model = nn.Sequential(Conv1D(4, 3), nn.Tanh(), Conv1D(3, 2))
        check(model, torch.randn(rows, time, 4))

        def turned(model, x):
            return model(x.transpose(0, 1)).transpose(0, 1)

        check(Called(model, turned), torch.randn(rows, time, 4))


class Called(nn.Module):
    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, *args):
        return self.how(self.inner, *args)


@pytest.mark.parametrize("rows", [5, 3])
def test_gemma(check, rows):
    check(Called(Rms(4, one=True), lambda m, x: m(x * 2)), torch.randn(rows, 3, 4))


class Windows(nn.Module):
    """Samples in the middle of an axis: [W, B, V] folded, as windows of an image may be."""

    def __init__(self):
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        b = len(x)
        x = x.view(b, 2, 3, 4).permute(1, 0, 2, 3).reshape(2 * b * 3, 4)
        x = F.linear(torch.tanh(x * self.scale), self.out)
        return x.view(2, b, 3, 2).transpose(0, 1)


def test_samples_in_the_middle(check):
    for rows in (5, 2):
        check(Windows(), torch.randn(rows, 6, 4))


class Queries(nn.Module):
    """Learned queries that other layers get: the hardest case for who owns which gradient."""

    def __init__(self, how):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 4))
        self.project, self.norm, self.how = nn.Linear(4, 4), nn.LayerNorm(4), how
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.2)

    def forward(self, x):
        q = {
            "expand": lambda: self.queries.expand(len(x), -1, -1),
            "repeat": lambda: self.queries.repeat(len(x), 1, 1),
            "once": lambda: self.queries,
            "function": lambda: torch.tanh(self.queries).expand(len(x), -1, -1),
        }[self.how]()
        h = self.norm(self.project(q))
        return h + self.attention(x if self.how == "once" else h, x, x)[0]


@pytest.mark.parametrize("rows", [5, 3, 1])
@pytest.mark.parametrize("how", ["expand", "repeat", "once", "function"])
def test_learned_queries(check, how, rows):
    check(Queries(how), torch.randn(rows, 3, 4))


class Start(nn.Module):
    """A learned state before the first step, for any number of layers."""

    def __init__(self, layers):
        super().__init__()
        self.h0 = nn.Parameter(torch.randn(layers, 1, 4))
        self.rnn = nn.GRU(3, 4, num_layers=layers, batch_first=True)

    def forward(self, x):
        return self.rnn(x, self.h0.expand(-1, len(x), -1).contiguous())[0]


@pytest.mark.parametrize("rows", [5, 2, 1])
def test_learned_state(check, rows):
    check(Start(1), torch.randn(rows, 3, 3))
    check(Start(2), torch.randn(rows, 3, 3))


class Recurrent(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.before, self.rnn = nn.Linear(3, 3), kind(3, 4, **how)
        self.first = how.get("batch_first", False)

    def forward(self, x):
        x = self.before(x)
        h, states = self.rnn(x if self.first else x.transpose(0, 1))
        last = states[0] if isinstance(states, tuple) else states
        return (h if self.first else h.transpose(0, 1)).mean(1) + last[-1].mean(-1, keepdim=True)


@pytest.mark.parametrize("rows", [5, 3, 2, 1])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(check, kind, rows):
    """B = T and B = layers occur; a trial is never needed."""
    for how in (
        {"batch_first": True},
        {"bidirectional": True, "num_layers": 2, "dropout": 0.3},
        {"bias": False},
    ):
        assert check(Recurrent(kind, **how), torch.randn(rows, 3, 3)).trials <= 1
    if kind is nn.LSTM:
        check(Recurrent(kind, proj_size=2), torch.randn(rows, 3, 3))
    frozen = Recurrent(kind)
    for name, p in frozen.rnn.named_parameters():
        p.requires_grad_("weight" in name)
    check(frozen, torch.randn(rows, 3, 3))


def test_packed_sequence_raises(check):
    def packed(rnn, x):
        one = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2, 1]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(rnn(one)[0], batch_first=True)[0]

    with pytest.raises(RuntimeError, match=r"packed sequence.*padded batch"):
        check(Called(nn.LSTM(3, 4, batch_first=True), packed), torch.randn(3, 3, 3))


class Steps(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, found = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


@pytest.mark.parametrize("rows", [5, 4, 1])
def test_cells(check, rows):
    for cell in (nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4, nonlinearity="relu")):
        check(Steps(cell), torch.randn(rows, 3, 3))


class Given(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self):
        return self.token


class Scan(nn.Module):
    """A function of a parameter, used at every step, as in a state space model."""

    def __init__(self):
        super().__init__()
        self.rate, self.given = nn.Parameter(torch.randn(4)), Given()

    def forward(self, x):
        decay, h, found = torch.exp(-torch.exp(self.rate)), torch.zeros(len(x), 4), []
        for step in x.unbind(1):
            h = decay * h + step
            found.append(h)
        return torch.cat([self.given().expand(len(x), -1, -1), torch.stack(found, 1)], 1)


@pytest.mark.parametrize("rows", [5, 4, 3, 1])
def test_scan(check, rows):
    check(Scan(), torch.randn(rows, 3, 4))


class Bias(nn.Module):
    """Relative positions: a table looked up with a constant index, in a child of its own."""

    def __init__(self, time):
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * time - 1, 2))
        steps = torch.arange(time)
        self.register_buffer("index", steps[:, None] - steps[None] + time - 1)

    def forward(self):
        return self.table[self.index].permute(2, 0, 1)[None]


class Relative(nn.Module):
    def __init__(self, time):
        super().__init__()
        self.bias, self.qk = Bias(time), nn.Linear(4, 8)

    def forward(self, x):
        q, k = self.qk(x).view(*x.shape[:2], 2, 2, 2).permute(3, 0, 2, 1, 4)
        return (q @ k.transpose(-1, -2) + self.bias()).softmax(-1) @ k


@pytest.mark.parametrize("rows", [5, 3, 2, 1])
def test_relative_positions(check, rows):
    check(Relative(3), torch.randn(rows, 3, 4))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.inner = nn.Linear(4, 4), Scaled(4)
        self.log = nn.Parameter(torch.randn(4))

    def forward(self, x):
        x = self.before(x) * self.log.exp()
        return checkpoint(self.inner, x, use_reentrant=False) * self.log.exp()


def test_checkpointing(check):
    check(Checkpointed(), torch.randn(5, 3, 4))
    check(
        Called(Scaled(4), lambda m, x: checkpoint(m, x, use_reentrant=False)), torch.randn(3, 3, 4)
    )


@pytest.mark.parametrize("rows", [5, 3])
def test_batch_second(check, rows):
    model = nn.Sequential(Rms(4), Conv1D(4, 4), nn.RNN(4, 4))

    def loss(output):
        return output[0].sin().sum((0, 2))

    check(Called(model, lambda m, x: m(x)), torch.randn(3, rows, 4), loss=loss, declared=1)


class Positions(nn.Module):
    """Positions embedded once for all samples, in every form, by layers with rules."""

    def __init__(self, form):
        super().__init__()
        self.tokens, self.places = nn.Linear(4, 6), nn.Embedding(9, 6)
        self.norm, self.form = nn.LayerNorm(6), form
        self.code, self.attention = nn.Linear(2, 6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.register_buffer("steps", torch.randn(9, 2))

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        places = {
            "T": lambda: self.places(steps),
            "1T": lambda: self.places(steps[None]),
            "unsqueezed": lambda: self.places(steps).unsqueeze(0),
            "BT": lambda: self.places(steps.expand(len(x), -1)),
            "norm": lambda: self.norm(self.places(steps)),
            "linear": lambda: torch.tanh(self.code(self.steps[: x.shape[1]])),
            "weight": lambda: self.norm(self.places.weight)[steps],
        }[self.form]()
        h = self.tokens(x) + places
        return h + self.attention(h, h, h)[0]


@pytest.mark.parametrize("rows", [5, 3, 6, 1])
@pytest.mark.parametrize("form", ["T", "1T", "unsqueezed", "BT", "norm", "linear", "weight"])
def test_positions(check, form, rows):
    check(Positions(form), torch.randn(rows, 3, 4))


class Generator(nn.Module):
    """Noise has no sample's influence, but their axis."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.scale = (
            nn.Linear(4, 4),
            nn.Linear(4, 3),
            nn.Parameter(torch.rand(4)),
        )

    def forward(self, x):
        h = self.one(torch.randn(len(x), 4))
        return self.two(torch.tanh(h) + torch.randn(len(x), 4) * self.scale) + x[:, :1]


@pytest.mark.parametrize("rows", [5, 4, 1])
def test_noise(check, rows):
    check(Generator(), torch.randn(rows, 3))


class Outside(nn.Module):
    """A child's parameter-made tensor without any batch axis, used by its parent's parent."""

    def __init__(self, time):
        super().__init__()
        self.inner = nn.ModuleList([Bias(time)])
        self.qk = nn.Linear(4, 8)

    def forward(self, x):
        q, k = self.qk(x).view(*x.shape[:2], 2, 2, 2).permute(3, 0, 2, 1, 4)
        bias = self.inner[0]().squeeze(0)
        return (q @ k.transpose(-1, -2) + F.dropout(bias, 0.2)).softmax(-1) @ k


@pytest.mark.parametrize("rows", [5, 3, 2, 1])
def test_parameters_outside_of_their_module(check, rows):
    check(Outside(3), torch.randn(rows, 3, 4))


class Strays(nn.Module):
    """Weights used by somebody else than their module: a tied head, a bias, a penalty inside."""

    def __init__(self):
        super().__init__()
        self.tokens, self.layer, self.norm = nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.loose = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x):
        h = self.norm(self.layer(self.tokens(x)) * self.scale)
        h = h @ self.loose.weight.transpose(0, 1) + F.softplus(self.layer.bias.float())
        h = F.dropout(h, 0.1) * self.norm.weight.sum()
        return F.linear(h, self.tokens.weight)


@pytest.mark.parametrize("rows", [5, 4, 3, 1])
def test_strays(check, rows):
    model = Strays()
    model.loose.bias.requires_grad_(False)
    check(model, torch.randint(7, (rows, 3)), rtol=1e-5)


class Bucketed(nn.Module):
    """As in T5: the index of relative positions is computed each time, partly in place."""

    def __init__(self):
        super().__init__()
        self.bias, self.qk = nn.Embedding(6, 2), nn.Linear(4, 8)

    def forward(self, x):
        steps = torch.arange(x.shape[1], device=x.device)
        gap = steps[None] - steps[:, None]
        index = (gap > 0).to(torch.long) * 3
        index += torch.min(gap.abs(), torch.full_like(gap, 2))
        q, k = self.qk(x).view(*x.shape[:2], 2, 2, 2).permute(3, 0, 2, 1, 4)
        scores = q @ k.transpose(-1, -2)
        scores += self.bias(index).permute(2, 0, 1).unsqueeze(0)
        return scores.softmax(-1) @ k


@pytest.mark.parametrize("rows", [5, 3, 2, 1])
def test_bucketed_positions(check, rows):
    check(Bucketed(), torch.randn(rows, 3, 4))


class Video(nn.Module):
    """Layers with rules on samples that are folded with frames, or into windows."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, stride=2), nn.GroupNorm(2, 4)
        self.mix, self.layer = nn.Linear(4, 4), nn.LayerNorm(4)
        self.kind = nn.Embedding(3, 4)

    def forward(self, x):
        b, t = x.shape[:2]
        frames = self.norm(self.conv(x.flatten(0, 1))).mean((2, 3))
        frames = self.layer(torch.relu_(self.mix(frames)))
        windows = frames.view(b, 2, t // 2, 4).permute(1, 0, 2, 3).flatten(0, 1)
        mixed = self.mix(windows).view(2, b, -1, 4).transpose(0, 1)
        kinds = self.kind(x[:, :, 0, 0, 0].flatten().gt(0).long())
        return mixed.reshape(b, -1) + kinds.view(b, -1)


@pytest.mark.parametrize("rows", [5, 3, 1])
def test_folded_layers_with_rules(check, rows):
    check(Video(), torch.randn(rows, 4, 2, 7, 7))


class Ruled(nn.Module):
    """A module with a sampler of its own, around one without."""

    def __init__(self):
        super().__init__()
        self.weight, self.inner = nn.Parameter(torch.rand(4)), Rms(4)

    def forward(self, x):
        return self.inner(x).detach() + x * self.weight + self.inner(x.tanh())


def test_unknown_module_inside_of_one_with_a_sampler(check):
    def sampler(layer, activations, backprops):
        return {layer.weight: (activations[0] * backprops).sum(1)}

    register_grad_sampler(Ruled)(sampler)
    try:
        model = nn.Sequential(Rms(4), Ruled(), Rms(4))
        check(model, torch.randn(5, 3, 4))
        check(Called(model, lambda m, x: m(x)), torch.randn(3, 3, 4))
    finally:
        del GradSampleHooks.GRAD_SAMPLERS[Ruled]
