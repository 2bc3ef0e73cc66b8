"""Bare parameters, each use of them equal to the twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

HOWS = {
    "scale": (lambda x, w: x * w, [(4,)]),
    "scale_left": (lambda x, w: w * x, [(1, 3, 1)]),
    "add": (lambda x, w: x + w, [(3, 4)]),
    "sub": (lambda x, w: w - x, [(1, 1, 4)]),
    "sub_alpha": (lambda x, w: torch.sub(x, w, alpha=2), [(4,)]),
    "div": (lambda x, w: x / w, [(4,)]),
    "div_left": (lambda x, w: w / (2 + x.square()), [(4,)]),
    "matmul": (lambda x, w: x @ w, [(4, 2)]),
    "lora": (lambda x, a, b: x + x @ a @ b * 0.5, [(4, 2), (2, 4)]),
    "matmul_vector": (lambda x, w: x @ w, [(4,)]),
    "matmul_left": (lambda x, w: w @ x, [(2, 3)]),
    "matmul_batch": (lambda x, w: x[:, :, None] @ w, [(3, 4, 2)]),
    "linear": (lambda x, w, b: F.linear(x, w, b), [(2, 4), (2,)]),
    "linear_slices": (lambda x, w: F.linear(x, w[:3]) * F.linear(x, w[3:]), [(6, 4)]),
    "linear_transposed": (lambda x, w: F.linear(x, w.t()), [(4, 3)]),
    "matmul_transposed": (lambda x, w: x @ w.T, [(3, 4)]),
    "one_number": (lambda x, w: x * w[1] + w[0] * x[:, :1], [(4,)]),
    "scalar": (lambda x, w: x * w.exp() + w, [()]),
    "columns": (lambda x, w: x @ w[:, 1:3], [(4, 5)]),
    "one_of_many": (lambda x, w: x @ w[0] - x @ w[2], [(3, 4, 2)]),
    "addmm": (lambda x, w, b: torch.addmm(b, x.reshape(-1, 4), w).view(-1, 3, 2), [(4, 2), (2,)]),
    "addmm_scaled": (lambda x, w, b: torch.addmm(b, x[:, 0], w, beta=0.5, alpha=3), [(4, 2), (2,)]),
    "plus_one": (lambda x, w: x * (1 + w), [(4,)]),
    "exp": (lambda x, w: x * torch.exp(w), [(4,)]),
    "product": (lambda x, a, b: x * (a * b), [(4,), (3, 4)]),
    "twice": (lambda x, w: x * w + (x * w).tanh() * w, [(4,)]),
    "repeat": (lambda x, w: torch.cat([x, w.repeat(len(x), 1, 1)], 1), [(1, 2, 4)]),
    "token": (lambda x, w: torch.cat([w.expand(len(x), -1, -1), x], 1), [(1, 1, 4)]),
    "function_of_token": (
        lambda x, w, v: torch.cat([(w + v).expand(len(x), -1, -1), x], 1),
        [(1, 1, 4), (4,)],
    ),
    "interpolate": (
        lambda x, w: x + F.interpolate(w, size=3, mode="linear").transpose(1, 2),
        [(1, 4, 5)],
    ),
    "noise": (lambda x, w: x + torch.randn(x.shape) * w, [(4,)]),
    "noise_like": (lambda x, w: x + torch.randn_like(x) * w, [(4,)]),
    "in_place": (lambda x, w, v: (x * 1).add_(w).mul_(v).div_(v + 3), [(4,), (4,)]),
    "einsum": (lambda x, w: torch.einsum("bti,oi->bto", x, w), [(2, 4)]),
    "einsum_left": (lambda x, w: torch.einsum("io, bti -> bto", w, x), [(4, 2)]),
    "einsum_heads": (lambda x, w: torch.einsum("btd,hkd->bhtk", x, w), [(2, 3, 4)]),
    "einsum_joins": (lambda x, w: torch.einsum("btd,tdo->bo", x, w), [(3, 4, 2)]),
    "einsum_turned": (lambda x, w: torch.einsum("btd,od->obt", x, w).permute(1, 2, 0), [(2, 4)]),
    "einsum_diagonal": (lambda x, w: torch.einsum("btd,td->bt", x, w), [(3, 4)]),
    "einsum_one": (lambda x, w: torch.einsum("btd,td", x, w)[:, None], [(3, 4)]),
    "einsum_dots": (lambda x, w: torch.einsum("...d,od->...o", x, w), [(2, 4)]),
    "einsum_implicit": (lambda x, w: torch.einsum("btd,od", x, w), [(2, 4)]),
    "einsum_three": (lambda x, w: torch.einsum("btd,de,bte->bt", x, w, x.tanh()), [(4, 4)]),
    "masked_fill": (lambda x, w: x.masked_fill(x > 0.1, w.sum()) * w, [(4,)]),
    "where_left": (lambda x, w: torch.where(x > 0.1, w, x), [(3, 1)]),
    "where_both": (lambda x, w, v: torch.where(x > 0.1, w, v) + x, [(3, 1), (4,)]),
    "where_method": (lambda x, w: x.where(x > 0.1, w), [(4,)]),
    "bilinear": (lambda x, w: F.bilinear(x, x.tanh(), w), [(2, 4, 4)]),
    "baddbmm": (lambda x, w: torch.baddbmm(w, x, x.transpose(1, 2)), [(1, 3, 3)]),
    "where": (lambda x, w: torch.where(x > 0, x, w), [(4,)]),
    "prelu": (lambda x, w: F.prelu(x, w), [(1,)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), [(4,), (4,)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4,), w), [(4,)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 1, w, b), [(3,), (3,)]),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=1), [(2, 3, 3)]),
    "gather": (lambda x, w: x * w[x.argmax(-1)], [(4, 4)]),
    "embedding": (lambda x, w: x * F.embedding(x.argmax(-1), w), [(4, 4)]),
    "constant_index": (lambda x, w: x + w[torch.arange(3)], [(7, 4)]),
    "float_cast": (lambda x, w: (x.bfloat16() * w.bfloat16()).double(), [(4,)]),
    "cast_matrix": (lambda x, w: x @ w.float().double().t(), [(2, 4)]),
    "softmax": (lambda x, w: x * torch.softmax(w, 0), [(4,)]),
    "stack": (lambda x, a, b: x * torch.stack([a, b, a]), [(4,), (4,)]),
    "attention": (
        lambda x, k, v: F.scaled_dot_product_attention(
            x, k.expand(len(x), -1, -1), v.expand(len(x), -1, -1)
        ),
        [(1, 5, 4), (1, 5, 4)],
    ),
}


class Made(nn.Module):
    def __init__(self, how, shapes):
        super().__init__()
        self.before, self.middle = nn.Linear(4, 4), Middle(how, shapes)
        self.after = nn.Linear(1, 1)

    def forward(self, x):
        return self.after(self.middle(self.before(x)).tanh().unsqueeze(-1))


class Middle(nn.Module):
    def __init__(self, how, shapes):
        super().__init__()
        self.how, self.count = how, len(shapes)
        for i, shape in enumerate(shapes):
            self.register_parameter(f"w{i}", nn.Parameter(torch.rand(shape) + 0.2))

    def forward(self, x):
        return self.how(x, *(getattr(self, f"w{i}") for i in range(self.count)))


@pytest.mark.parametrize("rows", [5, 3, 4, 1])
@pytest.mark.parametrize("how", HOWS)
def test_use(check, how, rows):
    """With B = 5, B = T = 3, B = d = 4 and B = 1; between layers, and on the model's input."""
    function, shapes = HOWS[how]
    x = torch.rand(rows, 3, 4)
    digits = {"float_cast": 1e-2, "cast_matrix": 1e-5}.get(how, 1e-8)
    check(Made(function, shapes), x, rtol=digits)
    check(Middle(function, shapes), x, rtol=digits)


@pytest.mark.parametrize("how", HOWS)
def test_parts_are_not_formed_early(check, how):
    """Products give parts that can be taken apart, whatever way they are written."""
    function, shapes = HOWS[how]
    engine = check(Middle(function, shapes), torch.rand(5, 3, 4), rtol=1e-2)
    kinds = {type(part).__name__ for _, part in engine.parts}
    joined = ("linear", "addmm", "matmul_t", "lora", "einsum_h", "einsum_j", "einsum_l")
    if how.startswith(joined) and how != "linear_slices":
        assert kinds <= {"Outer", "Formed", "Sliced"} and kinds & {"Outer", "Sliced"}


@pytest.mark.parametrize("rows", [5, 3])
def test_inside_of_another_layout(check, rows):
    class Turned(Made):
        def forward(self, x):
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    for how in ("scale", "matmul", "linear_slices", "einsum", "layer_norm"):
        check(Turned(*HOWS[how]), torch.rand(rows, 3, 4), rules=False)
