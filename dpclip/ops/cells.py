"""One step of a recurrence, as the operations that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _lstm(
    x: Tensor,
    states: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns h and c [B, H] after one step; as torch.lstm_cell."""
    h, c = states
    gates = F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """Returns h [B, H] after one step; as torch.gru_cell."""
    r_x, z_x, n_x = F.linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, -1)
    new = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return new + (z_x + z_h).sigmoid() * (h - new)


def _simple(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def step(
        x: Tensor,
        h: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        """Returns h [B, H] after one step; as torch.rnn_tanh_cell and torch.rnn_relu_cell."""
        return activation(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))

    return step


CELLS: dict[Any, Callable[..., Any]] = {
    torch.lstm_cell: _lstm,
    torch.gru_cell: _gru,
    torch.rnn_tanh_cell: _simple(torch.tanh),
    torch.rnn_relu_cell: _simple(torch.relu),
}
