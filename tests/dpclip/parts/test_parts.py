"""What a part says by `rows`, `add_to`, `squares` and `summed` is what autograd says by group.

Drawn: any layer that has a rule, any groups, any layout of its tensors in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpclip.groups import groups_of
from dpclip.layers import rule_for
from dpclip.layers.linear import linear_parts
from dpclip.parts import Part, form

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even")

Rows = dict[nn.Parameter, Tensor]
Parts = dict[nn.Parameter, Part]


@dataclass(frozen=True)
class Spec:
    """A kind of layer, its arguments, what one sample looks like, and how many ids there are."""

    kind: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    words: int = 0


@dataclass(frozen=True)
class Case:
    """One call of a layer, how its samples fall into groups, and how its tensors lie in memory.

    `calls` says which way a rule goes where there are two.
    """

    spec: Spec
    slots: list[int]
    real: list[bool]
    layouts: tuple[str, str]
    dtype: torch.dtype
    calls: bool
    seed: int


lengths = st.integers(1, 4)


@st.composite
def linears(draw: st.DrawFn) -> Spec:
    width = st.sampled_from([1, 2, 5, 12])
    i, o, bias = draw(width), draw(width), draw(st.booleans())
    return Spec(nn.Linear, (i, o, bias), {}, (*draw(st.lists(lengths, max_size=3)), i))


@st.composite
def convs(draw: st.DrawFn) -> Spec:
    axes, groups, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    i, o = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    how = {
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(axes)),
        "stride": stride,
        "padding": draw(st.sampled_from([0, 1, 2, "valid", *["same"] * (stride == 1)])),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros"] * 4 + ["circular", "reflect", "replicate"])),
    }
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    return Spec(kind, (i, o), how, (i, *(draw(st.integers(5, 6)) for _ in range(axes))))


@st.composite
def transposed_convs(draw: st.DrawFn) -> Spec:
    axes, groups, stride = (draw(st.integers(1, n)) for n in (3, 2, 3))
    dilation = draw(st.integers(1, 3))
    i, o = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    how = {
        "kernel_size": tuple(draw(st.integers(2, 3)) for _ in range(axes)),
        "stride": stride,
        "padding": draw(st.integers(0, 1)),
        "output_padding": draw(st.integers(0, max(stride, dilation) - 1)),
        "groups": groups,
        "bias": draw(st.booleans()),
        "dilation": dilation,
    }
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    return Spec(kind, (i, o), how, (i, *(draw(st.integers(2, 3)) for _ in range(axes))))


@st.composite
def embeddings(draw: st.DrawFn) -> Spec:
    words, width = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    how: dict[str, Any] = {"padding_idx": draw(st.sampled_from([None, 0]))}
    if draw(st.booleans()):
        shape = tuple(draw(st.lists(lengths, max_size=2)))
        return Spec(nn.Embedding, (words, width), how, shape, words)
    how["mode"] = draw(st.sampled_from(["sum", "mean"]))
    return Spec(nn.EmbeddingBag, (words, width), how, (draw(lengths),), words)


@st.composite
def norms_of_positions(draw: st.DrawFn) -> Spec:
    shape = tuple(draw(st.lists(st.integers(2, 4), min_size=1, max_size=2)))
    whole = (*draw(st.lists(lengths, max_size=2)), *shape)
    if draw(st.booleans()):
        return Spec(nn.RMSNorm, (shape, draw(st.sampled_from([None, 0.1]))), {}, whole)
    return Spec(nn.LayerNorm, (shape, 0.1), {"bias": draw(st.booleans())}, whole)


@st.composite
def norms_of_channels(draw: st.DrawFn) -> Spec:
    space = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    channels, blocks = draw(st.sampled_from([(1, 1), (4, 1), (4, 2), (3, 3)]))
    if draw(st.booleans()):
        return Spec(nn.GroupNorm, (blocks, channels, 0.1), {}, (channels, *space))
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(space) - 1]
    return Spec(kind, (channels, 0.1), {"affine": True}, (channels, *space))


SPECS = {
    f.__name__: f
    for f in (linears, convs, transposed_convs, embeddings, norms_of_positions, norms_of_channels)
}
LAYOUTS = {
    "plain": lambda b, *s: torch.randn(b, *s),
    "batch second": lambda b, *s: torch.randn(*s[:1], b, *s[1:]).movedim(len(s[:1]), 0),
    "features first": lambda b, *s: torch.randn(b, *s[-1:], *s[:-1]).movedim(1 if s else 0, -1),
    "channels last": lambda b, *s: torch.randn(b, *s[1:], *s[:1]).movedim(-1, 1 if s else 0),
    "every second": lambda b, *s: torch.randn(2 * b, *s)[::2],
    "same samples": lambda b, *s: torch.randn(1, *s).expand(b, *s),
    "same positions": lambda b, *s: torch.randn(b, *[1] * len(s[:1]), *s[1:]).expand(b, *s),
    "one number": lambda b, *s: torch.randn(()).expand(b, *s),
}


@st.composite
def cases(draw: st.DrawFn, specs: Callable[[], st.SearchStrategy[Spec]]) -> Case:
    few = st.integers(1, 3)
    equal = st.tuples(few, few).map(lambda n: [k // n[0] for k in range(n[0] * n[1])])
    slots = draw(st.one_of(equal, st.lists(st.integers(0, 3), min_size=1, max_size=6)))
    size = len(slots)
    real = draw(st.lists(st.sampled_from([True, True, False]), min_size=size, max_size=size))
    return Case(
        draw(specs()),
        slots,
        real if any(real) and draw(st.booleans()) else [True] * size,
        (draw(st.sampled_from(sorted(LAYOUTS))), draw(st.sampled_from(sorted(LAYOUTS)))),
        draw(st.sampled_from([torch.float64, torch.float32])),
        draw(st.booleans()),
        draw(st.integers(0, 2**20)),
    )


def each_kind(check: Callable[..., None]) -> Callable[..., None]:
    """Runs a check on cases of every kind of layer."""

    @pytest.mark.parametrize("kind", SPECS)
    def test(kind: str) -> None:
        @settings(max_examples=80, deadline=None, derandomize=True, database=None)
        @given(cases(SPECS[kind]))
        def run(case: Case) -> None:
            with way(calls=case.calls):
                check(Use(case))

        run()

    test.__doc__ = check.__doc__
    return test


@contextmanager
def way(*, calls: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("dpclip.parts.convolved._TOGETHER", 0 if calls else 2**18)
        patch.setattr("dpclip.layers.norm._WORTH_A_CALL", 0 if calls else 1e12)
        yield


class Use:
    """A layer, the tensors of one use of it, and the slow, obvious twin of its parts."""

    def __init__(self, case: Case) -> None:
        self.case, spec = case, case.spec
        torch.manual_seed(case.seed)
        self.layer = spec.kind(*spec.args, **spec.kwargs).to(case.dtype)
        self.params = list(self.layer.parameters())
        self.slots, self.real = torch.tensor(case.slots), torch.tensor(case.real)
        self.groups = groups_of(self.slots, self.real)
        self.x, self.g = self.draw()
        self.tolerance = 1e-9 if case.dtype == torch.float64 else 2e-4

    def draw(self) -> tuple[Tensor, Tensor]:
        """Returns an input and a gradient of the output, NaN where samples are padding."""
        case, spec = self.case, self.case.spec
        first, second = (LAYOUTS[name] for name in case.layouts)
        x = first(len(case.slots), *spec.shape).to(case.dtype)
        if spec.words:
            return x.mul(100).long().remainder(spec.words), self.drawn_like_output(x, second)
        return self.poisoned(x, self.real), self.drawn_like_output(x, second)

    def drawn_like_output(self, x: Tensor, layout: Callable[..., Tensor]) -> Tensor:
        x = x.long() * 0 if self.case.spec.words else x
        shape = self.layer(x.contiguous()).shape
        return self.poisoned(layout(*shape).to(self.case.dtype), self.real)

    def poisoned(self, rows: Tensor, healthy: Tensor) -> Tensor:
        if bool(healthy.all()):
            return rows
        return rows.masked_fill(~healthy.view(-1, *[1] * (rows.dim() - 1)), math.nan)

    def parts(self, x: Tensor, g: Tensor) -> Parts:
        found = rule_for(self.layer)
        assert found is not None and found[0] == "dpclip"
        parts = found[1](self.layer, [x], g, self.groups)
        assert set(parts) == set(self.params)
        return parts

    def wanted(self, x: Tensor, g: Tensor) -> Rows:
        """Returns rows [G, *shape]: one autograd call for each group, in float64."""
        self.layer.double()
        rows = []
        for slot in self.slots[self.real].unique():
            held = self.real & (self.slots == slot)
            inside = x[held].contiguous() if self.case.spec.words else x[held].double().contiguous()
            # With an input gradient, since without one, GroupNorm crashes on channels_last.
            asked = [*self.params, *[inside] * (not self.case.spec.words)]
            with torch.enable_grad():
                out = self.layer(inside.requires_grad_(not self.case.spec.words))
            found = torch.autograd.grad(out, asked, g[held].double().contiguous())
            rows.append(found[: len(self.params)])
        self.layer.to(self.case.dtype)
        return {
            p: torch.stack(r) for p, r in zip(self.params, zip(*rows, strict=True), strict=True)
        }

    def each(self) -> Iterator[tuple[Part, Tensor]]:
        """Yields a part and its rows, parameter by parameter."""
        parts, wanted = self.parts(self.x, self.g), self.wanted(self.x, self.g)
        for p in self.params:
            yield parts[p], wanted[p]

    def close(self, found: Tensor, wanted: Tensor) -> None:
        assert found.shape == wanted.shape
        scale = 1.0 + float(wanted.abs().max())
        assert float((found - wanted).abs().max()) <= self.tolerance * scale


@each_kind
def test_rows(use: Use) -> None:
    for part, wanted in use.each():
        use.close(part.rows(None), wanted)


@each_kind
def test_rows_written(use: Use) -> None:
    """To memory that held anything, also wider than the layer's own dtype."""
    for part, wanted in use.each():
        for dtype in (use.case.dtype, torch.float64):
            out = torch.full(wanted.shape, math.nan, dtype=dtype)
            found = part.rows(out)
            assert found.data_ptr() == out.data_ptr()
            use.close(out, wanted)
            formed = form(part, out.fill_(math.nan))
            use.close(out, wanted)
            use.close(formed.squares(), wanted.flatten(1).square().sum(1))


@each_kind
def test_rows_added(use: Use) -> None:
    for part, wanted in use.each():
        for dtype in (use.case.dtype, torch.float64):
            held = torch.randn(wanted.shape).to(dtype)
            both = held + wanted
            part.add_to(held)
            use.close(held, both)


@each_kind
def test_squares(use: Use) -> None:
    for part, wanted in use.each():
        use.close(part.squares(), wanted.flatten(1).square().sum(1))


@each_kind
def test_sum(use: Use) -> None:
    for part, wanted in use.each():
        factors = torch.rand(len(wanted)).to(use.case.dtype)
        use.close(part.summed(factors, None), torch.einsum("g,g...->...", factors.double(), wanted))


@each_kind
def test_sum_without_some_groups(use: Use) -> None:
    """What is left out may hold anything."""
    valid = torch.rand(use.groups.count) < 0.5
    healthy = torch.zeros(len(use.slots), dtype=torch.bool)
    numbers = use.slots[use.real].unique()
    healthy[use.real] = valid[torch.searchsorted(numbers, use.slots[use.real])]
    x = use.x if use.case.spec.words else use.poisoned(use.x, healthy)
    parts, wanted = use.parts(x, use.poisoned(use.g, healthy)), use.wanted(use.x, use.g)
    factors = torch.rand(use.groups.count).to(use.case.dtype)
    for p in use.params:
        total = torch.einsum("g,g...->...", factors.double() * valid, wanted[p])
        use.close(parts[p].summed(factors, valid), total)


@each_kind
def test_two_uses(use: Use) -> None:
    """Joined to one part where that is possible, added up where it is not."""
    x, g = use.draw()
    one, two = use.parts(use.x, use.g), use.parts(x, g)
    first, second = use.wanted(use.x, use.g), use.wanted(x, g)
    factors = torch.rand(use.groups.count).to(use.case.dtype)
    for p in use.params:
        both, wanted = one[p].joined(two[p]), first[p] + second[p]
        held = one[p].rows(torch.empty(wanted.shape, dtype=use.case.dtype))
        two[p].add_to(held)
        use.close(held, wanted)
        if both is not None:
            use.close(both.rows(None), wanted)
            use.close(both.squares(), wanted.flatten(1).square().sum(1))
            total = torch.einsum("g,g...->...", factors.double(), wanted)
            use.close(both.summed(factors, None), total)


@pytest.mark.parametrize("n", [2, 9, 32, 40])
def test_squares_where_they_cancel(n: int) -> None:
    """In float32, a large constant in every position, and gradients that add up to zero."""
    a = torch.randn(3, n, 64) + 100.0
    g = torch.randn(3, n, 64)
    g -= g.mean(1, keepdim=True)
    layer, groups = nn.Linear(64, 64).float(), groups_of(torch.arange(3))
    parts = linear_parts(layer, [a.float()], g.float(), groups)
    exact = torch.einsum("rno,rni->roi", g.float().double(), a.float().double())
    wanted = exact.flatten(1).norm(dim=1)
    found = parts[cast(nn.Parameter, layer.weight)].squares().sqrt()
    assert float(((found - wanted) / wanted).abs().max()) < 1e-3


def test_some_uses_join() -> None:
    """All but convolutions, whose maps may differ in size."""
    groups, x = groups_of(torch.arange(2)), torch.randn(2, 3, 3)
    for layer, joins in [
        (nn.Linear(3, 2), True),
        (nn.LayerNorm(3), True),
        (nn.Embedding(4, 2), True),
        (nn.Conv1d(3, 2, 2), False),
    ]:
        a = x.long().remainder(4) if isinstance(layer, nn.Embedding) else x
        parts = rule_for(layer)[1](layer, [a], torch.randn_like(layer(a)), groups)  # type: ignore[index]
        part = parts[layer.weight]
        assert (part.joined(part) is not None) == joins
