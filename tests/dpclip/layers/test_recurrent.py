"""Recurrent layers without weight gradients equal PyTorch's own, sample by sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpclip.layers.recurrent import recur, stack

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

STEPS, SAMPLES, INPUTS, HIDDEN = 4, 3, 2, 5
KINDS = ("lstm", "lstm_proj", "gru", "rnn_tanh", "rnn_relu")
both = itertools.product((1, 2), (False, True), (False, True), (False, True))
FORMS = [
    pytest.param(
        {"num_layers": n, "bidirectional": two, "bias": bias, "batch_first": first},
        id=f"{n}-{'both' if two else 'forward'}-{'bias' if bias else 'no_bias'}-"
        f"{'batch_first' if first else 'time_first'}",
    )
    for n, two, bias, first in both
]


def build(kind, inputs=INPUTS, hidden=HIDDEN, **form) -> nn.RNNBase:
    if kind.startswith("rnn"):
        return nn.RNN(inputs, hidden, nonlinearity=kind.removeprefix("rnn_"), **form)
    if kind == "gru":
        return nn.GRU(inputs, hidden, **form)
    return nn.LSTM(inputs, hidden, proj_size=hidden - 2 if kind == "lstm_proj" else 0, **form)


def example(module, steps=STEPS, samples=SAMPLES) -> tuple[Tensor, list[Tensor]]:
    """Returns an input and a state that both need gradients."""
    shape = (samples, steps) if module.batch_first else (steps, samples)
    x = torch.randn(*shape, module.input_size, requires_grad=True)
    count = module.num_layers * (1 + module.bidirectional)
    sizes = [module.proj_size or module.hidden_size]
    sizes += [module.hidden_size] if module.mode == "LSTM" else []
    return x, [torch.randn(count, samples, size, requires_grad=True) for size in sizes]


def native(module, x, hx) -> list[Tensor]:
    return pytree.tree_leaves(module(x, tuple(hx) if len(hx) == 2 else hx[0]))


@dataclass
class Seen:
    """Remembers what `capture` is told, and adds up weight gradients from it."""

    told: dict[int, list[tuple[Tensor | None, Tensor]]] = field(default_factory=dict)

    def __call__(self, i: int, a: Tensor | None, g: Tensor) -> None:
        assert not g.requires_grad
        assert a is None or not a.requires_grad
        self.told.setdefault(i, []).append((a, g))

    def sums(self, samples: slice = slice(None)) -> list[Tensor]:
        """The gradients of all weights for some of the samples."""
        return [sum(_product(a, g, samples) for a, g in self.told[i]) for i in sorted(self.told)]


def _product(a, g, samples):
    if a is None:
        return g[samples].sum((0, 1))
    return torch.einsum("bto,bti->oi", g[samples], a[samples])


def run(module, x, hx, seen, **other) -> tuple[Tensor, ...]:
    options = {
        "has_biases": module.bias,
        "num_layers": module.num_layers,
        "dropout": module.dropout,
        "train": module.training,
        "bidirectional": module.bidirectional,
        "batch_first": module.batch_first,
    } | other
    weights = [weight.detach() for weight in module._flat_weights]
    state = tuple(hx) if len(hx) == 2 else hx[0]
    return recur(module.mode.lower(), x, state, weights, capture=seen, **options)


def loss(outputs: Sequence[Tensor]) -> Tensor:
    """A function of every output of every sample, different for each."""
    return sum((out * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum() for out in outputs)


def grads(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves, materialize_grads=True))


def close(found, expected, tolerance=1e-12):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def agree(module, x, hx, tolerance=1e-12, pick=slice(None)):
    """Outputs, gradients of input and state, and sums over samples equal PyTorch's own."""
    seen = Seen()
    ours, theirs = run(module, x, hx, seen), native(module, x, hx)
    close(ours, theirs, tolerance)
    leaves = [leaf for leaf in (x, *hx) if leaf.requires_grad]
    expected = grads(loss(theirs[pick]), [*leaves, *module._flat_weights])
    if leaves:
        close(grads(loss(ours[pick]), leaves), expected[: len(leaves)], tolerance)
    else:
        loss(ours[pick]).backward()
    close(seen.sums(), expected[len(leaves) :], tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_pytorch(kind, form) -> None:
    module = build(kind, **form)
    agree(module, *example(module))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_captured_products_are_per_sample_gradients(kind, form) -> None:
    module = build(kind, **form)
    x, hx = example(module)
    seen = Seen()
    loss([out.sin() for out in run(module, x, hx, seen)]).backward()
    for b in range(SAMPLES):
        outputs = [out.sin() for out in native(module, x, hx)]
        only = [torch.zeros_like(out) for out in outputs]
        only[0].select(0 if module.batch_first else 1, b).fill_(1)
        for mask in only[1:]:
            mask[:, b] = 1
        chosen = [out * mask for out, mask in zip(outputs, only, strict=True)]
        close(seen.sums(slice(b, b + 1)), grads(loss(chosen), module._flat_weights))


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    first=st.booleans(),
    two=st.booleans(),
    layers=st.integers(1, 3),
    steps=st.integers(1, 4),
    samples=st.integers(0, 3),
    inputs=st.integers(1, 3),
    hidden=st.integers(3, 5),
)
def test_equals_pytorch_at_the_edges(
    kind, first, two, layers, steps, samples, inputs, hidden
) -> None:
    form = {"num_layers": layers, "bidirectional": two, "batch_first": first}
    module = build(kind, inputs, hidden, **form)
    agree(module, *example(module, steps, samples))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", range(3))
def test_gradient_through_one_output_alone(kind, which) -> None:
    module = build(kind, num_layers=2, bidirectional=True)
    x, hx = example(module)
    if which <= len(hx):
        agree(module, x, hx, pick=slice(which, which + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("needing", [(), (0,), (1,)])
def test_inputs_and_states_need_no_gradient(kind, needing) -> None:
    module = build(kind, num_layers=2)
    x, hx = example(module)
    leaves = [leaf.detach().requires_grad_(i in needing) for i, leaf in enumerate((x, *hx))]
    agree(module, leaves[0], leaves[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_in_any_memory_order(kind) -> None:
    module = build(kind, num_layers=2, batch_first=True)
    x, hx = example(module)
    wide = torch.randn(STEPS, INPUTS, SAMPLES, 2)
    for odd in (
        x.detach().transpose(0, 1).contiguous().transpose(0, 1),
        wide[..., 1].permute(2, 0, 1),
        x[:, :1].detach().expand(-1, STEPS, -1),
        x[:1].detach().expand(SAMPLES, -1, -1),
    ):
        agree(module, odd.requires_grad_(), hx)


@pytest.mark.parametrize("kind", KINDS)
def test_captured_sequences_fold_into_groups_without_a_copy(kind) -> None:
    module = build(kind, batch_first=True)
    x, hx = example(module)
    seen = Seen()
    loss(run(module, x, hx, seen)).backward()
    for i, ((a, g),) in seen.told.items():
        assert a is None or a.view(1, SAMPLES * STEPS, -1).shape[1]
        if not (kind == "gru" and i in (1, 3)):  # a part of the gates in between
            assert g.is_contiguous()
    if kind != "gru":
        assert len({id(g) for i, ((_, g),) in seen.told.items() if i < 4}) == 1


def test_used_twice_before_the_backward_pass() -> None:
    module = build("lstm", num_layers=2)
    x, hx = example(module)
    seen = Seen()
    once = run(module, x, hx, seen)
    twice = run(module, once[0][..., :INPUTS], once[1:], seen)
    first = native(module, x, hx)
    second = native(module, first[0][..., :INPUTS], first[1:])
    expected = grads(loss(second) + loss(first), [x, *hx, *module._flat_weights])
    close(grads(loss(twice) + loss(once), [x, *hx]), expected[:3])
    close(seen.sums(), expected[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_it_is_pytorchs_own(kind) -> None:
    module = build(kind, num_layers=2)
    x, hx = example(module)
    with torch.no_grad():
        outputs = run(module, x, hx, None)
        for ours, theirs in zip(outputs, native(module, x, hx), strict=True):
            assert torch.equal(ours, theirs)
            assert not ours.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers(kind) -> None:
    below, above = build(kind), build(kind, inputs=3 if kind == "lstm_proj" else HIDDEN)
    x, hx = example(below)
    states = [torch.cat([h, h.flip(1)]).detach() for h in hx]
    module = build(kind, num_layers=2, dropout=0.4)
    module._flat_weights = [*below._flat_weights, *above._flat_weights]
    seen = Seen()
    torch.manual_seed(3)
    ours = run(module, x, states, seen)
    torch.manual_seed(3)
    middle, *low = native(below, x, [h[:1] for h in states])
    top, *high = native(above, F.dropout(middle, 0.4), [h[1:] for h in states])
    theirs = [top, *(torch.cat(pair) for pair in zip(low, high, strict=True))]
    close(ours, theirs)
    expected = grads(loss(theirs), [x, *module._flat_weights])
    close(grads(loss(ours), [x]), expected[:1])
    close(seen.sums(), expected[1:])


def test_no_dropout_outside_of_training() -> None:
    module = build("gru", num_layers=2, dropout=0.4).eval()
    agree(module, *example(module))


@pytest.mark.parametrize("what", ["x", "h", "weight", "output"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_in_place_raises(kind, first, what) -> None:
    module = build(kind, batch_first=first)
    x, hx = (pytree.tree_map(lambda t: t.detach(), value) for value in example(module))
    output = run(module, x, hx, Seen())[0]
    changed = {"x": x, "h": hx[0], "weight": module._flat_weights[1], "output": output.detach()}
    with torch.no_grad():
        changed[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_states_do_not_share_memory_with_outputs(kind) -> None:
    module = build(kind)
    x, hx = example(module)
    output, *states = run(module, x, hx, Seen())
    before = output.clone()
    for state in states:
        state.add_(1)
    assert torch.equal(output, before)
    output.sum().backward()


def test_there_is_no_second_derivative() -> None:
    module = build("lstm")
    x, hx = example(module)
    value = run(module, x, hx, Seen())[0].square().sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_backward_pass_can_be_repeated() -> None:
    module = build("lstm", num_layers=2)
    x, hx = example(module)
    once, twice = Seen(), Seen()
    loss(run(module, x, hx, once)).backward()
    value = loss(run(module, x, hx, twice))
    value.backward(retain_graph=True)
    value.backward()
    close(twice.sums(), [2 * total for total in once.sums()])


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind) -> None:
    module = build(kind, num_layers=2, bidirectional=True, batch_first=True).float()
    x, hx = (pytree.tree_map(lambda t: t.detach().float(), v) for v in example(module))
    agree(module, x.requires_grad_(), hx, tolerance=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_returns_what_pytorch_returns(kind, dtype) -> None:
    module = build(kind, num_layers=2, batch_first=True).float()
    x, hx = (pytree.tree_map(lambda t: t.detach().float(), v) for v in example(module))
    x = x.to(dtype).requires_grad_()
    seen = Seen()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = run(module, x, hx, seen), native(module, x, hx)
        for out, expected in zip(ours, theirs, strict=True):
            assert out.dtype == expected.dtype
            torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
        value = sum(out.float().square().sum() for out in ours)
        expected = sum(out.float().square().sum() for out in theirs)
        (found,) = torch.autograd.grad(value, x)
    wanted = grads(expected, [x, *module._flat_weights])
    assert found.dtype == x.dtype
    for a, b in zip([found, *seen.sums()], wanted, strict=True):
        assert (a.float() - b.float()).norm() < 0.05 * b.float().norm()


def test_autocast_leaves_double_precision_alone() -> None:
    module = build("lstm")
    with torch.autocast("cpu", torch.bfloat16):
        agree(module, *example(module))


def test_pure_half_precision() -> None:
    module = build("lstm").bfloat16()
    x, hx = (pytree.tree_map(lambda t: t.detach().bfloat16(), v) for v in example(module))
    seen = Seen()
    outputs = run(module, x.requires_grad_(), hx, seen)
    for out, expected in zip(outputs, native(module, x, hx), strict=True):
        torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
    outputs[0].sum().backward()
    assert all(total.dtype == torch.bfloat16 for total in seen.sums())


def test_every_kind_is_a_function_of_torch() -> None:
    assert all(callable(getattr(torch._VF, kind)) for kind in stack.KINDS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_equals_pytorch_on_a_gpu(kind) -> None:
    with torch.device("cuda"):
        module = build(kind, num_layers=2, bidirectional=True, batch_first=True)
        agree(module, *example(module), tolerance=1e-10)
