from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpclip.doctor.meeting import first_meeting


class Centred(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(self.axis, keepdim=True)


class Outer(nn.Module):
    """Modules called twice, and one that returns more than a tensor."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.linear, self.centred, self.lstm = nn.Linear(3, 3), Centred(axis), nn.LSTM(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.linear(self.linear(x)))
        return self.linear(self.centred(x))


@pytest.mark.parametrize("record", [0, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_innermost_module_where_samples_meet(axis, record):
    torch.manual_seed(0)
    x = torch.randn((4, 5, 3) if axis == 0 else (5, 4, 3))
    model = nn.ModuleList([Outer(axis)])[0]
    model.lstm.batch_first = axis == 0
    alone = x.narrow(axis, record, 1)
    assert first_meeting(model, model, alone, x, record) == "centred (Centred)"
    model.centred = nn.Identity()
    assert first_meeting(model, model, alone, x, record) is None
    assert not any(m._forward_hooks for m in model.modules())


def test_outputs_of_other_sizes_tell_nothing():
    """A record that is padded beside others is another input."""
    model = nn.Sequential(nn.Linear(3, 3))
    assert first_meeting(model, model, torch.ones(1, 5, 3), torch.zeros(4, 6, 3), 1) is None


def test_rounding_is_no_meeting():
    model = nn.Sequential(nn.Identity())
    one, batch = torch.ones(1, 3), torch.full((2, 3), 1.0 + 1e-5)
    assert first_meeting(model, model, one, batch, 1) is None
    assert first_meeting(model, model, one, batch, 1, tolerance=1e-6) == "0 (Identity)"


def test_outputs_that_are_changed_in_place_afterwards():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), Centred(0))
    x = torch.randn(4, 3)
    assert first_meeting(model, model, x[1:2], x, 1) == "2 (Centred)"
