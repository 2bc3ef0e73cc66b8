"""Gated recurrent unit (Cho et al. 2014) in the variant of cuDNN and torch.nn.GRU.

The reset gate acts after the product with W_hn, so that b_hn and W_hn lie inside of it:

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        q = W_hn h + b_hn
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)        n = tanh(W_in x + b_in + r q)
    h_t = (1 - z) n + z h_{t-1}

Gates are kept in the order r, z, q, n: the first three take one product with W_hh.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from dpclip.layers.recurrent.cell import Cell, Deltas, Returned, Tape, Weights
from dpclip.layers.recurrent.sequences import Direction, projected, room, rows

_through_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
_through_tanh = torch.ops.aten.tanh_backward.grad_input


def _forward(x: Tensor, start: tuple[Tensor, ...], w: Weights, direction: Direction) -> Tape:
    (h,) = start
    gates, output = _inputs(x, w), room(x, len(x), h.shape[1])
    tape, w_hh = Tape(x, h, output, gates), w.hh.t()
    rz, rzq = gates[..., : 2 * h.shape[1]], gates[..., : 3 * h.shape[1]]
    for rzq_t, rz_t, r, z, q, n, h_next in direction.forth(rzq, rz, *gates.chunk(4, -1), output):
        rzq_t.addmm_(h, w_hh)
        rz_t.sigmoid_()
        n.addcmul_(r, q).tanh_()
        torch.lerp(n, h, z, out=h_next)
        h = h_next
    return tape


def _inputs(x: Tensor, w: Weights) -> Tensor:
    """Returns [T, B, 4 H], all that does not depend on h: of r and z, the bias in q, of n."""
    size = w.hh.shape[1]
    gates = room(x, len(x), 4 * size)
    by_row, bias = rows(gates), w.bias
    b_rz = None if bias is None else bias[: 2 * size]
    b_n = None if w.b_ih is None else w.b_ih[2 * size :]
    projected(x, w.ih[: 2 * size], b_rz, by_row[:, : 2 * size])
    projected(x, w.ih[2 * size :], b_n, by_row[:, 3 * size :])
    q = by_row[:, 2 * size : 3 * size]
    q.zero_() if w.b_hh is None else q.copy_(w.b_hh[2 * size :])
    return gates


def _backward(
    tape: Tape, before: Tensor, w: Weights, returned: Returned, direction: Direction
) -> Deltas:
    gates, dh = cast(Tensor, tape.gates), returned.h.clone()
    size = dh.shape[1]
    deltas = _slopes(gates, before)
    dh_for_each = dh.unsqueeze(1)
    for d_out, d_all, d_rzq, z in direction.back(
        returned.output,
        deltas.unflatten(-1, (4, size)),
        deltas[..., : 3 * size],
        gates.chunk(4, -1)[1],
    ):
        dh.add_(d_out)
        d_all.mul_(dh_for_each)
        dh.mul_(z).addmm_(d_rzq, w.hh)
    rzn = room(deltas, len(deltas), 3 * size)
    torch.cat([rows(deltas)[:, : 2 * size], rows(deltas)[:, 3 * size :]], 1, out=rows(rzn))
    return Deltas(rzn, deltas[..., : 3 * size], dh)


def _slopes(gates: Tensor, before: Tensor) -> Tensor:
    """Returns [T, B, 4 H], slopes of h_t by the sums in r, z, q and n, for all steps at once."""
    r, z, q, n = gates.chunk(4, -1)
    slopes = torch.empty_like(gates)
    by_r, by_z, by_q, by_n = slopes.chunk(4, -1)
    _through_tanh(1 - z, n, grad_input=by_n)
    torch.mul(by_n, r, out=by_q)
    _through_sigmoid(by_n * q, r, grad_input=by_r)
    _through_sigmoid(before - n, z, grad_input=by_z)
    return slopes


GRU = Cell(_forward, _backward)
