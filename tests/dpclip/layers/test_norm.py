"""Normalization layers: every way to their rows equals autograd, group by group."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpclip.groups import groups_of
from dpclip.layers import rule_for
from dpclip.layers.norm import forward_statistics

NORMS = [
    (nn.LayerNorm(6), (5, 6)),
    (nn.LayerNorm(6), (6,)),
    (nn.LayerNorm((4, 6), eps=0.1), (4, 6)),
    (nn.LayerNorm((4, 1), bias=False), (2, 3, 4, 1)),
    (nn.RMSNorm(6), (5, 6)),
    (nn.RMSNorm((4, 6), eps=0.1), (2, 4, 6)),
    (nn.GroupNorm(2, 4), (4, 6)),
    (nn.GroupNorm(2, 4, eps=0.1), (4,)),
    (nn.GroupNorm(1, 4), (4, 3, 2)),
    (nn.GroupNorm(4, 4), (4, 3, 2, 2)),
    (nn.InstanceNorm1d(4, affine=True), (4, 6)),
    (nn.InstanceNorm2d(4, affine=True, eps=0.1), (4, 3, 2)),
    (nn.InstanceNorm3d(4, affine=True), (4, 3, 2, 2)),
]
SLOTS = [
    ([0, 1, 2, 3, 4, 5], None),
    ([0, 0, 1, 1, 2, 2], None),
    ([7] * 6, None),
    ([0, 0, 0, 1, 1, 2], None),
    ([1, 0, 2, 0, 1, 1], None),
    ([3, 0, 0, 3, 3, 5], [True, True, False, True, True, False]),
]
WAYS = {"calls": (0, 2**18), "products": (1e12, 2**18), "chunks": (1e12, 20)}


def drawn(layer):
    layer = copy.deepcopy(layer).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer


def compare(layer, x, gout, slots, real=None, saved=True, rtol=1e-10):
    """Checks the rule of a layer against one autograd call for each group."""
    x = x.detach()
    keep = torch.ones(len(x), dtype=torch.bool) if real is None else torch.tensor(real)
    if real is not None:
        gout[~keep] = float("nan")
    known = forward_statistics(layer(x.requires_grad_())) if saved else ()
    x, slots = x.detach(), torch.tensor(slots)
    _, rule = rule_for(layer)
    with torch.no_grad():
        parts = rule(layer, [x, *known], gout, groups_of(slots, None if real is None else keep))
    params = [p for p in layer.parameters() if p.requires_grad]
    assert set(parts) == set(params)
    for row, slot in enumerate(slots[keep].unique()):
        held = keep & (slots == slot)
        # With an input gradient, since without one, GroupNorm crashes on channels_last.
        inside = x[held].contiguous().requires_grad_()
        wanted = torch.autograd.grad(layer(inside), [*params, inside], gout[held].contiguous())
        for p, w in zip(params, wanted, strict=False):
            assert torch.allclose(parts[p].rows(None)[row], w, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("slots", "real"), SLOTS, ids=str)
@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=str)
def test_rows(norm, shape, slots, real, way, saved, monkeypatch):
    """Whether the forward's statistics come along or not, and whichever way is taken."""
    calls, chunk = WAYS[way]
    monkeypatch.setattr("dpclip.layers.norm._WORTH_A_CALL", calls)
    monkeypatch.setattr("dpclip.layers.norm._CHUNK", chunk)
    x = torch.randn(6, *shape)
    compare(drawn(norm), x, torch.randn_like(x), slots, real, saved)


def layouts(shape):
    """Yields tensors [6, *shape] that lie in memory in some other way."""
    first, last = torch.randn(6, *shape), torch.randn(6, *shape).movedim(1, -1).contiguous()
    yield "batch second", torch.randn(shape[0], 6, *shape[1:]).transpose(0, 1)
    yield "channels last", last.movedim(-1, 1)
    yield "every second", torch.randn(12, *shape)[::2]
    yield "expanded", first[:, :1].expand(6, *shape)
    yield "same samples", first[:1].expand(6, *shape)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("norm", "shape"), [(n, s) for n, s in NORMS if len(s) > 1], ids=lambda v: str(v)[:25]
)
def test_any_layout(norm, shape, way, saved, monkeypatch):
    """Of the input, of the gradient, of both."""
    calls, chunk = WAYS[way]
    monkeypatch.setattr("dpclip.layers.norm._WORTH_A_CALL", calls)
    monkeypatch.setattr("dpclip.layers.norm._CHUNK", chunk)
    layer, plain = drawn(norm), torch.randn(6, *shape)
    for (_, x), (_, g) in zip(layouts(shape), layouts(shape), strict=True):
        compare(layer, x, plain.clone(), [0, 0, 1, 1, 2, 2], saved=saved)
        compare(layer, plain, g, [0, 1, 1, 2, 2, 2], saved=saved)
        compare(layer, x, g, [0, 1, 2, 3, 4, 5], saved=saved)


@pytest.mark.parametrize("calls", [0, 1e12])
def test_time_first(calls, monkeypatch):
    """A layer that is given [T, B, d]: its statistics have their batch axis second, too."""
    monkeypatch.setattr("dpclip.layers.norm._WORTH_A_CALL", calls)
    layer, x, g = drawn(nn.LayerNorm(6)), torch.randn(5, 4, 6), torch.randn(5, 4, 6)
    known = forward_statistics(layer(x.clone().requires_grad_()))
    inputs = [t.transpose(0, 1) for t in (x, *known)]
    for given in (inputs, inputs[:1]):
        parts = rule_for(layer)[1](layer, given, g.transpose(0, 1), groups_of(torch.arange(4) // 2))
        for row, held in enumerate((slice(0, 2), slice(2, 4))):
            wanted = torch.autograd.grad(layer(x[:, held]), layer.weight, g[:, held])[0]
            assert torch.allclose(parts[layer.weight].rows(None)[row], wanted, rtol=1e-10)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("calls", [0, 1e12])
@pytest.mark.parametrize(
    ("norm", "shape"), [(n, s) for n, s in NORMS if getattr(n, "bias", None) is not None], ids=str
)
def test_half_frozen(norm, shape, calls, name, monkeypatch):
    monkeypatch.setattr("dpclip.layers.norm._WORTH_A_CALL", calls)
    layer, x = drawn(norm), torch.randn(6, *shape)
    layer.get_parameter(name).requires_grad_(False)
    compare(layer, x, torch.randn_like(x), [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("calls", [0, 1e12])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(64), (5, 64)),
        (nn.RMSNorm(64), (5, 64)),
        (nn.GroupNorm(2, 8), (8, 9, 9)),
        (nn.InstanceNorm1d(8, affine=True), (8, 81)),
    ],
    ids=str,
)
def test_single_precision(norm, shape, calls, offset, monkeypatch):
    """As precise as plain training, also with a mean of 100 deviations (batch norms centre x)."""
    monkeypatch.setattr("dpclip.layers.norm._WORTH_A_CALL", calls)
    layer = drawn(norm)
    x = (torch.randn(8, *shape) + offset).float()
    gout = torch.randn_like(x)
    groups = groups_of(torch.arange(8) // 2)
    params = list(layer.parameters())
    exact = [torch.autograd.grad(layer(a), params, g) for a, g in halves(x.double(), gout.double())]
    layer.float()
    plain = [torch.autograd.grad(layer(a), params, g) for a, g in halves(x, gout)]
    known = forward_statistics(layer(x.clone().requires_grad_()))
    for inputs in ([x], [x, *known]):
        parts = rule_for(layer)[1](layer, inputs, gout, groups)
        for i, p in enumerate(params):
            rows = parts[p].rows(None)
            assert rows.dtype == torch.float32
            wanted = torch.stack([e[i] for e in exact])
            slip = (torch.stack([q[i] for q in plain]) - wanted).norm() / wanted.norm()
            found = (rows - wanted).norm() / wanted.norm()
            assert found <= max(2 * float(slip), 2e-7 * (1 + offset))


def halves(x, g):
    return list(zip(x.split(2), g.split(2), strict=True))


@pytest.mark.parametrize("gout", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("calls", [0, 1e12])
@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=str)
def test_half_precision_adds_up_in_single(norm, shape, gout, calls, monkeypatch):
    """A model in bfloat16, and autocast, where a norm gets bfloat16 and returns float32."""
    monkeypatch.setattr("dpclip.layers.norm._WORTH_A_CALL", calls)
    layer = drawn(norm).bfloat16()
    x = torch.randn(6, *shape).bfloat16()
    g = torch.randn(x.shape).to(gout)
    exact = copy.deepcopy(layer).double()
    if isinstance(layer, nn.RMSNorm) and layer.eps is None:
        exact.eps = torch.finfo(torch.float32).eps  # what bfloat16 is computed with
    known = forward_statistics(layer(x.clone().requires_grad_()))
    parts = rule_for(layer)[1](layer, [x, *known], g, groups_of(torch.arange(6) // 2))
    for p, q in zip(layer.parameters(), exact.parameters(), strict=True):
        rows = parts[p].rows(None)
        assert rows.dtype == torch.float32
        for row, a, b in zip(rows, x.double().split(2), g.double().split(2), strict=True):
            (wanted,) = torch.autograd.grad(exact(a), q, b)
            assert (row - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=str)
def test_the_forward_tells_its_statistics(norm, shape):
    layer, x = drawn(norm), torch.randn(6, *shape, requires_grad=True)
    known = forward_statistics(layer(x))
    assert len(known) == (0 if isinstance(norm, nn.RMSNorm) else 2)
    assert all(len(t) == 6 and not t.requires_grad for t in known)
    with torch.no_grad():
        assert forward_statistics(layer(x)) == ()


def test_statistics_are_not_asked_for_where_that_runs_the_forward_again():
    layer, seen, runs = nn.LayerNorm(6), [], []

    def run(x):
        runs.append(1)
        y = layer(x)
        seen.append(forward_statistics(y))
        return y

    x = torch.randn(4, 6, requires_grad=True)
    checkpoint(run, x, use_reentrant=False).sum().backward()
    with torch.autograd.graph.save_on_cpu():
        run(x)
    assert set(seen) == {()}
    assert len(runs) == 3  # forward, its repetition in backward, and the other
