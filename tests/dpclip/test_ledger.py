"""Epsilon against published numbers and another library."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event, pld

from dpclip.ledger import Ledger, epsilon, noise_for

RUN = [(1.0, 0.01, 2000)]


def test_epsilon_of_the_usual_run():
    assert epsilon("prv", RUN, 1e-5) == pytest.approx(2.594, abs=1e-3)
    assert epsilon("rdp", RUN, 1e-5) == pytest.approx(2.867, abs=1e-3)


@pytest.mark.parametrize(("sigma", "q", "steps"), [(1.0, 0.01, 2000), (2.0, 0.001, 1000)])
def test_prv_is_an_upper_bound_close_to_pld(sigma, q, steps):
    """Opacus' default is 18 % off in the second case."""
    oracle = pld.PLDAccountant()
    step = dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma))
    oracle.compose(step, steps)
    wanted = oracle.get_epsilon(1e-5)
    found = epsilon("prv", [(sigma, q, steps)], 1e-5)
    assert wanted - 1e-3 <= found <= 1.02 * wanted + 1e-3


def test_history_in_parts_is_the_whole():
    ledger = Ledger("rdp", 0.01)
    for _ in range(3):
        ledger.charge(1.0)
    ledger.charge(2.0)
    ledger.charge(1.0, count_shift=0.5)
    assert ledger.history[:2] == [(1.0, 0.01, 3), (2.0, 0.01, 1)]
    assert ledger.history[2][0] == pytest.approx((1 + 0.25) ** -0.5)
    assert ledger.epsilon(1e-5) == epsilon("rdp", ledger.history, 1e-5)


def test_nothing_spent_and_nothing_claimed():
    ledger = Ledger("prv", 0.01)
    assert ledger.epsilon(1e-5) == 0.0
    ledger.charge(0.0)
    assert ledger.epsilon(1e-5) == math.inf and ledger.reasons == ["no noise was added"]
    ledger.void("another")
    ledger.void("another")
    assert ledger.reasons == ["no noise was added", "another"]
    assert Ledger("rdp", None).epsilon(1e-5) == math.inf


def test_tiny_noise_does_not_exhaust_memory():
    """PRV's grid would not fit; the RDP bound stands in."""
    assert epsilon("prv", [(0.05, 0.1, 1000)], 1e-5) == epsilon("rdp", [(0.05, 0.1, 1000)], 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0])
def test_delta_outside_of_its_range(delta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        epsilon("rdp", RUN, delta)


@pytest.mark.parametrize("name", ["gdp", "PRV", ""])
def test_other_accountants_are_refused(name):
    with pytest.raises(ValueError, match='expected "prv" or "rdp"'):
        Ledger(name, 0.01)


@pytest.mark.parametrize(("target", "q", "steps"), [(1.0, 0.01, 500), (8.0, 0.1, 100)])
def test_noise_for_a_target(target, q, steps):
    sigma = noise_for("rdp", target, 1e-5, q, steps)
    assert 0.99 * target <= epsilon("rdp", [(sigma, q, steps)], 1e-5) <= target


def test_targets_that_nothing_reaches():
    for target in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive finite"):
            noise_for("rdp", target, 1e-5, 0.1, 10)
    with pytest.raises(ValueError, match="out of reach"):
        noise_for("rdp", 0.01, 1e-5, 0.1, 10)
