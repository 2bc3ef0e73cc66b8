"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

As in torch.nn.LSTM, sums of W_ih x_t + b_ih and W_hh h_{t-1} + b_hh are left out:

    i, f, o = sigmoid(.)    g = tanh(.)    c_t = f c_{t-1} + i g    r_t = o tanh(c_t)
    h_t = r_t, or W_hr r_t with projections (Sak et al. 2014)
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from dpclip.layers.recurrent.cell import Cell, Deltas, Returned, Tape, Weights
from dpclip.layers.recurrent.sequences import Direction, projected, room, rows

_through_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
_through_tanh = torch.ops.aten.tanh_backward.grad_input


def _forward(x: Tensor, start: tuple[Tensor, ...], w: Weights, direction: Direction) -> Tape:
    h0, c0 = start
    steps, size = len(x), c0.shape[1]
    gates = room(x, steps, 4 * size)
    projected(x, w.ih, w.bias, rows(gates))
    output, cells = room(x, steps, h0.shape[1]), room(x, steps + 1, size)
    direction.first(cells).copy_(c0)
    tape = Tape(x, h0, output, gates, cells)
    _scan(tape, w, direction)
    return tape


def _scan(tape: Tape, w: Weights, direction: Direction) -> None:
    """Turns sums over inputs into gates, in place, and fills cells and outputs."""
    gates, cells = cast(Tensor, tape.gates), cast(Tensor, tape.cells)
    old, new = direction.before_and_after(cells)
    i_and_f = gates[..., : 2 * cells.shape[2]]
    squashed = torch.empty_like(cells[0])
    h, w_hh = tape.h, w.hh.t()
    for all4, if_, i, f, g, o, c, c_next, h_next in direction.forth(
        gates, i_and_f, *gates.chunk(4, -1), old, new, tape.output
    ):
        all4.addmm_(h, w_hh)
        if_.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        torch.mul(f, c, out=c_next).addcmul_(i, g)
        torch.tanh(c_next, out=squashed)
        if w.hr is None:
            torch.mul(o, squashed, out=h_next)
        else:
            torch.mm(squashed.mul_(o), w.hr.t(), out=h_next)
        h = h_next


def _backward(
    tape: Tape, _before: Tensor, w: Weights, returned: Returned, direction: Direction
) -> Deltas:
    gates, cells = cast(Tensor, tape.gates), cast(Tensor, tape.cells)
    old, new = direction.before_and_after(cells)
    o, squashed = gates.chunk(4, -1)[3], torch.tanh(new)
    read = None if w.hr is None else o * squashed
    deltas = _slopes(gates, old, squashed)
    r_by_c = _through_tanh(o, squashed, grad_input=squashed)
    dh, dc = returned.h.clone(), cast(Tensor, returned.c).clone()
    # Only a projection needs to see the gradient of every output again.
    by_h = dh.expand(tape.output.shape) if read is None else torch.empty_like(tape.output)
    _scan_back(_Way(deltas, gates, r_by_c, by_h, returned.output), w, dh, dc, direction)
    return Deltas(deltas, deltas, dh, dc, None if read is None else (read, by_h))


def _slopes(gates: Tensor, old: Tensor, squashed: Tensor) -> Tensor:
    """Returns [T, B, 4 H]: by the sums in i, f and g of c_t, by that in o of r_t.

    For all steps at once, which leaves products with what comes back to the walk through time.
    """
    i, f, g, o = gates.chunk(4, -1)
    slopes = torch.empty_like(gates)
    by_i, by_f, by_g, by_o = slopes.chunk(4, -1)
    _through_sigmoid(g, i, grad_input=by_i)
    _through_sigmoid(old, f, grad_input=by_f)
    _through_tanh(i, g, grad_input=by_g)
    _through_sigmoid(squashed, o, grad_input=by_o)
    return slopes


class _Way(NamedTuple):
    """What the walk back reads and writes.

    Attributes:
        deltas: [T, B, 4 H] slopes, turned into gradients in place.
        gates: [T, B, 4 H].
        r_by_c: [T, B, H] slope of r_t by c_t.
        by_h: [T, B, P] the gradient by every output is written here.
        returned: [T, B, P] the part of it that does not come through time.
    """

    deltas: Tensor
    gates: Tensor
    r_by_c: Tensor
    by_h: Tensor
    returned: Tensor


def _scan_back(way: _Way, w: Weights, dh: Tensor, dc: Tensor, direction: Direction) -> None:
    """Fills `way`; leaves the gradients by the state before the first step in `dh` and `dc`."""
    size = dc.shape[1]
    ifg = way.deltas[..., : 3 * size].unflatten(-1, (3, size))
    f, o = way.gates.chunk(4, -1)[1], way.deltas.chunk(4, -1)[3]
    dc_for_each = dc.unsqueeze(1)
    for d_out, d_h, slope, d_ifg, d_o, d_all, forget in direction.back(
        way.returned, way.by_h, way.r_by_c, ifg, o, way.deltas, f
    ):
        torch.add(dh, d_out, out=d_h)
        d_r = d_h if w.hr is None else torch.mm(d_h, w.hr)
        dc.addcmul_(d_r, slope)
        d_ifg.mul_(dc_for_each)
        d_o.mul_(d_r)
        dc.mul_(forget)
        torch.mm(d_all, w.hh, out=dh)


LSTM = Cell(_forward, _backward)
