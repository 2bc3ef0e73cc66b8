"""The shapes on which Opacus tests its per-sample gradients, with groups of any kind.

The ranges follow opacus/tests/grad_samples/*_test.py of pytorch/opacus 1.6 (Apache-2.0, Meta
Platforms, Inc. and affiliates). Points of them are drawn here, always the same; empty batches and
packed sequences are left out.
"""

from __future__ import annotations

import random

import pytest
import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention, SequenceBias
from torch import nn
from torch.utils.data import TensorDataset

from dpclip import clip, micro_batches, per_sample
from dpclip.groups import groups_of
from dpclip.layers import rule_for

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even")


def linear(N, Z, H, W, input_dim, bias, batch_first):
    if input_dim == 2 and not batch_first:
        return None
    x = torch.randn(*(N, Z, H, W)[: input_dim - 1], W)
    return nn.Linear(W, W + 2, bias=bias), x if batch_first else batch_second(x)


def embedding(N, T, Q, R, V, D, dim, batch_first):
    x = torch.randint(V, (N, T, Q, R)[:dim])
    return nn.Embedding(V, D), x if batch_first else batch_second(x)


def batch_second(x):
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def conv(kind, N, C, space, out, kernel_size, stride, padding, dilation, groups):
    o = C * 2 if out == "expand" else max(1, C // 2)
    if (padding == "same" and stride != 1) or C % groups or o % groups:
        return None
    return kind(C, o, kernel_size, stride, padding, dilation, groups), torch.randn(N, C, *space)


def conv1d(W, **how):
    return conv(nn.Conv1d, space=(W,), **how)


def conv2d(H, W, **how):
    return conv(nn.Conv2d, space=(H, W), **how)


def conv3d(D, H, W, **how):
    return conv(nn.Conv3d, space=(D, H, W), **how)


def layer_norm(N, Z, H, W, input_dim, norm_dim, kind=nn.LayerNorm):
    if norm_dim >= input_dim:
        return None
    shape = (N, *(Z, H)[: input_dim - 2], W)
    return kind(shape[-norm_dim:]), torch.randn(shape)


def rms_norm(**how):
    return layer_norm(**how, kind=nn.RMSNorm)


def group_norm(N, C, H, W, num_groups):
    num_groups = C if num_groups == "C" else num_groups
    return None if C % num_groups else (nn.GroupNorm(num_groups, C), torch.randn(N, C, H, W))


def instance_norm(N, C, W, H=None, Z=None):
    space = [n for n in (Z, H, W) if n is not None]
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(space) - 1]
    return kind(C, affine=True, track_running_stats=False), torch.randn(N, C, *space)


def span(first, last):
    return list(range(first, last + 1))


def points(count, build, **ranges):
    """Returns so many points of the ranges, of those that make sense."""
    rng, found = random.Random(build.__name__), []
    while len(found) < count:
        how = {name: rng.choice(values) for name, values in ranges.items()}
        if build(**how) is not None:
            found.append(pytest.param(build, how, id=f"{build.__name__} {how}"))
    return found


N, FLAG = span(1, 4), [True, False]
CONV = {"N": N, "C": [1, 3, 32], "out": ["expand", "shrink"]}
NORM = {"N": N, "Z": span(1, 4), "H": span(1, 3), "W": span(5, 10)}
NORM |= {"input_dim": span(2, 4), "norm_dim": span(1, 3)}
INSTANCE = {"N": N, "C": span(1, 3), "W": span(5, 10)}
PLANE = {"H": span(4, 8)}
TABLE = [
    *points(
        40, linear, N=N, Z=span(1, 4), H=span(1, 3), W=span(10, 17), input_dim=span(2, 4),
        bias=FLAG, batch_first=FLAG,
    ),
    *points(
        40, conv1d, **CONV, W=span(6, 10), kernel_size=[2, 3], stride=[1, 2],
        padding=[0, 1, 2, "same", "valid"], dilation=[1, 2], groups=span(1, 12),
    ),
    *points(
        40, conv2d, **CONV, H=span(11, 17), W=span(11, 17), kernel_size=span(2, 4), stride=[1, 2],
        padding=[0, 2, "same", "valid"], dilation=span(1, 3), groups=span(1, 16),
    ),
    *points(
        40, conv3d, **CONV, D=span(3, 6), H=span(6, 10), W=span(6, 10),
        kernel_size=[2, 3, (1, 2, 3)], stride=[1, 2, (1, 2, 3)],
        padding=[0, 2, (1, 2, 3), "same", "valid"], dilation=[1, (1, 2, 2)], groups=span(1, 16),
    ),
    *points(
        40, embedding, N=N, T=span(1, 5), Q=span(1, 4), R=[1, 2], V=span(2, 32), D=span(10, 17),
        dim=span(2, 4), batch_first=FLAG,
    ),
    *points(40, layer_norm, **NORM),
    *points(40, rms_norm, **NORM),
    *points(40, group_norm, N=N, C=span(1, 8), H=span(5, 10), W=span(4, 8), num_groups=[1, 4, "C"]),
    *points(40, instance_norm, **INSTANCE),
    *points(40, instance_norm, **INSTANCE, **PLANE),
    *points(40, instance_norm, **INSTANCE, **PLANE, Z=span(1, 4)),
]  # fmt: skip


def groupings(rows):
    """Yields slot numbers: each sample by itself, pairs, and ragged groups out of order."""
    yield torch.arange(rows)
    yield torch.arange(rows) // 2
    yield torch.tensor([1, 0, 1, 1, 2, 0, 1, 2][:rows])


def close(found, wanted):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-9 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize(("build", "how"), TABLE)
def test_rows(build, how):
    layer, x = build(**how)
    params = list(layer.parameters())
    gout = torch.randn(layer(x).shape)
    for slots in groupings(len(x)):
        with torch.no_grad():
            parts = rule_for(layer)[1](layer, [x], gout, groups_of(slots))
        assert set(parts) == set(params)
        held = [slots == slot for slot in slots.unique()]
        wanted = [torch.autograd.grad(layer(x[rows]), params, gout[rows]) for rows in held]
        for p, rows in zip(params, zip(*wanted, strict=True), strict=True):
            close(parts[p].rows(None), torch.stack(rows))


def bags(N, sz, V, D, mode):
    sizes = torch.randint(1, sz + 1, (N,)).tolist()
    return nn.EmbeddingBag(V, D, mode=mode), [torch.randperm(V)[:size] for size in sizes]


BAGS = points(
    40, bags, N=span(4, 8), sz=span(3, 7), V=span(10, 32), D=span(10, 17), mode=["sum", "mean"]
)


def flat(held):
    """Returns the ids of all bags and where each starts."""
    return torch.cat(held), torch.tensor([0, *(len(bag) for bag in held[:-1])]).cumsum(0)


@pytest.mark.parametrize(("build", "how"), BAGS)
def test_bags(build, how):
    layer, held = build(**how)
    gout = torch.randn(len(held), layer.embedding_dim)
    for slots in groupings(len(held)):
        part = rule_for(layer)[1](layer, flat(held), gout, groups_of(slots))[layer.weight]
        for row, slot in zip(part.rows(None), slots.unique(), strict=True):
            mine = (slots == slot).nonzero()[:, 0].tolist()
            out = layer(*flat([held[i] for i in mine]))
            close(row, torch.autograd.grad(out, layer.weight, gout[mine])[0])


class Around(nn.Module):
    """A layer that is called with its batch axis first or second."""

    def __init__(self, layer, call, batch_first):
        super().__init__()
        self.layer, self.call, self.batch_first = layer, call, batch_first

    def forward(self, x):
        if self.batch_first:
            return self.call(self.layer, x)
        return self.call(self.layer, x.transpose(0, 1)).transpose(0, 1)


def attention(T, D, P, bias, add_bias_kv, add_zero_attn, kv_dim):
    width = D if kv_dim else None
    layer = DPMultiheadAttention(
        D, P, bias=bias, add_bias_kv=add_bias_kv, add_zero_attn=add_zero_attn, dropout=0.0,
        kdim=width, vdim=width,
    )  # fmt: skip
    return Around(layer, lambda m, x: m(*x.unbind(-1))[0], False), (T, D, 3)


def recurrent(kind, T, D, H, num_layers, bias, batch_first, bidirectional):
    layer = kind(
        D, H, num_layers=num_layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    )
    return Around(layer, lambda m, x: m(x)[0], batch_first), (T, D)


def sequence_bias(T, D, batch_first):
    return Around(SequenceBias(D, batch_first), lambda m, x: m(x), batch_first), (T, D)


MODELS = [
    *points(
        8, attention, T=span(16, 20), D=[4], P=[1, 2], bias=FLAG, add_bias_kv=FLAG,
        add_zero_attn=FLAG, kv_dim=FLAG,
    ),
    *points(
        8, recurrent, kind=[DPRNN, DPGRU, DPLSTM], T=span(1, 3), D=[4, 5], H=span(8, 10),
        num_layers=[1, 2], bias=FLAG, batch_first=FLAG, bidirectional=FLAG,
    ),
    *points(8, sequence_bias, T=span(10, 20), D=span(4, 8), batch_first=FLAG),
]  # fmt: skip


def loss(output, _y):
    return output.square().flatten(1).mean(1).mean()


@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(2)], ids=["1", "2"])
@pytest.mark.parametrize(("build", "how"), MODELS)
def test_models(kit, build, how, grouping):
    """By the engine, since they are made of several layers; Poisson batches, some groups ragged."""
    model, shape = build(**how)
    data = TensorDataset(torch.randn(9, *shape), torch.zeros(9))
    trained = kit.private(model, data, batch_size=3, grouping=grouping, weighting=clip(0.02))
    trained.twin.loss = loss
    kit.agree(trained, steps=3, loss=loss)
