"""Training goes the same way under every plan."""

from __future__ import annotations

import math

import pytest

from benchmarks.losses import Comparison, Training, compare, difference, main
from benchmarks.models import MODELS
from benchmarks.ways import SHARINGS, Refusal


@pytest.mark.parametrize("model", MODELS)
def test_plans_train_alike(model):
    found = compare(MODELS[model].reduced(), SHARINGS["4"], Training(steps=4))
    assert found.agrees, found.differences


@pytest.mark.slow
def test_something_is_learned():
    found = compare(MODELS["mlp"].reduced(), SHARINGS["4"], Training(steps=100, lr=0.1))
    assert found.agrees
    assert found.expected[-1] < found.expected[0] - 0.1


def test_differences():
    assert difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert difference([1.0, math.nan], [1.0, 2.0]) == math.inf


@pytest.mark.parametrize("bad", [0.01, math.inf, Refusal("no")])
def test_disagreement(bad):
    assert Comparison([1.0], {"fast": 1e-6}).agrees
    assert not Comparison([1.0], {"fast": 1e-6, "low": bad}).agrees


def test_command_line(capsys):
    assert main(["--reduced", "--models", "mlp", "--groups", "4", "--steps", "3"]) == 0
    printed = capsys.readouterr().out
    assert "| dpclip b=4, low, by shapes" in printed
    assert "2.305 to" in printed
