"""Budgets: what they admit, what they never admit, and that they are quick to ask."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event, pld
from hypothesis import given, settings
from hypothesis import strategies as st

from dpclip import budgets as module
from dpclip.accounting.renyi import ORDERS, converted, rdp
from dpclip.accounting.spending import epsilon
from dpclip.budgets import BudgetSpent, budget, step_budget
from dpclip.ledger import Ledger

DELTA = 1e-5
PLAN = {"noise_multiplier": 1.0, "sample_rate": 0.01}
PLANS = [(8.0, 1.0, 0.01), (1.0, 2.0, 0.02), (0.2, 4.0, 0.01), (3.0, 5.0, 1.0), (2.0, 0.8, 0.001)]


def most_by_rdp(target: float, sigma: float, q: float) -> int:
    """The direct search: doubling, then halving, with the RDP accountant."""

    def fits(steps: int) -> bool:
        return epsilon("rdp", [(sigma, q, steps)], DELTA) <= target

    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@pytest.mark.parametrize(("target", "sigma", "q"), PLANS)
def test_a_filter_admits_as_many_planned_steps_as_the_rdp_accountant(target, sigma, q):
    limit = budget(target, DELTA, noise_multiplier=sigma, sample_rate=q)
    wanted = most_by_rdp(target, sigma, q)
    assert limit.left([], sigma, q) == wanted
    assert limit.left([(sigma, q, wanted - 1)], sigma, q) == 1
    assert limit.admits([(sigma, q, wanted - 1)], sigma, q)
    assert not limit.admits([(sigma, q, wanted)], sigma, q)
    assert limit.spent([(sigma, q, wanted)]) <= target
    assert limit.spent([]) == 0.0


choices = st.lists(
    st.tuples(st.floats(0.6, 20), st.floats(1e-3, 1), st.integers(1, 50)), min_size=1, max_size=20
)


@settings(max_examples=25, deadline=None)
@given(choices, st.floats(0.5, 20), st.sampled_from([1e-3, 1e-5, 1e-8]))
def test_no_sequence_of_choices_exceeds_a_filter(steps, target, delta):
    """An adversary that tries any step next, and the same one again while it is let."""
    limit = budget(target, delta, noise_multiplier=4.0, sample_rate=0.01)
    order = float(limit.because.split("of order ")[1].split()[0])
    assert order in ORDERS
    ledger = Ledger("rdp")
    for sigma, q, times in steps:
        for _ in range(times):
            if not limit.admits(ledger.history, sigma, q):
                break
            ledger.charge(sigma, sample_rate=q)
    total = math.fsum(n * rdp(s, q, order) for s, q, n in ledger.history)
    assert total + converted(0.0, order, delta) <= target
    assert epsilon("rdp", ledger.history, delta) <= target
    assert limit.spent(ledger.history) <= target
    for sigma, q, _ in steps:  # and nothing that fits was kept back
        fits = total + rdp(sigma, q, order) + converted(0.0, order, delta) <= target * (1 - 1e-9)
        assert limit.admits(ledger.history, sigma, q) or not fits


def test_a_filter_charges_other_steps_by_what_they_cost():
    limit = budget(8.0, DELTA, **PLAN)
    before = limit.left([], 1.0, 0.01)
    quieter = limit.left([(4.0, 0.01, 1000)], 1.0, 0.01)
    assert before - 100 < quieter < before
    assert limit.left([(0.6, 0.01, 1000)], 1.0, 0.01) == 0
    assert limit.left([], 4.0, 0.01) > 10 * before
    assert limit.left([], 1e4, 1e-6) > 10**9


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
@pytest.mark.parametrize(("target", "sigma", "q"), PLANS)
def test_a_step_budget_spends_its_epsilon(target, sigma, q, accountant):
    limit = step_budget(target, DELTA, noise_multiplier=sigma, sample_rate=q, accountant=accountant)
    most = limit.left([], sigma, q)
    spent, next_one = (epsilon(accountant, [(sigma, q, n)], DELTA) for n in (most, most + 1))
    assert spent <= target and (spent >= 0.99 * target or next_one > target)
    assert str(most) in limit.because
    assert limit.admits([(sigma, q, most - 1)], sigma, q)
    assert not limit.admits([(sigma, q, most)], sigma, q)
    if accountant == "prv":
        assert most > 1.05 * budget(target, DELTA, noise_multiplier=sigma, sample_rate=q).left(
            [], sigma, q
        )


@pytest.mark.parametrize(("target", "sigma", "q"), PLANS[:3])
def test_a_step_budget_holds_by_pld(target, sigma, q):
    steps = step_budget(target, DELTA, noise_multiplier=sigma, sample_rate=q).left([], sigma, q)
    accountant = pld.PLDAccountant()
    accountant.compose(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), steps)
    assert 0.98 * target <= accountant.get_epsilon(DELTA) <= target + 1e-3


def test_a_step_budget_counts_milder_steps_and_refuses_others():
    limit = step_budget(8.0, DELTA, **PLAN)
    most = limit.left([], 1.0, 0.01)
    assert limit.left([(1.0, 0.01, 3), (2.0, 0.01, 4), (1.0, 0.005, 5)], 3.0, 0.001) == most - 12
    assert limit.left([], 0.99, 0.01) == limit.left([], 1.0, 0.011) == 0
    assert limit.left([(0.99, 0.01, 1)], 1.0, 0.01) == 0
    assert limit.left([(1.0, 0.01, most + 1)], 1.0, 0.01) == 0


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_few_steps_are_counted_one_by_one(accountant, monkeypatch):
    """Between 3 and 4 steps epsilon moves by far more than 1 %."""
    calls = []
    monkeypatch.setattr(module, "spend", lambda *run: calls.append(run) or epsilon(*run))
    target = epsilon(accountant, [(1.0, 0.5, 3)], DELTA) * 1.05
    limit = step_budget(target, DELTA, noise_multiplier=1.0, sample_rate=0.5, accountant=accountant)
    assert limit.left([], 1.0, 0.5) == 3 and len(calls) < 10


def test_a_spent_budget_says_what_happened_and_what_to_do():
    for limit in (budget(8.0, DELTA, **PLAN), step_budget(8.0, DELTA, **PLAN, accountant="rdp")):
        most = limit.left([], 1.0, 0.01)
        limit.check([(1.0, 0.01, most - 1)], 1.0, 0.01)
        with pytest.raises(BudgetSpent) as raised:
            limit.check([(1.0, 0.01, most)], 1.0, 0.01)
        message = str(raised.value)
        for part in (
            limit.label,
            "noise multiplier 1 and q = 0.01",
            f"epsilon {limit.spent([(1.0, 0.01, most)]):.4g} of 8 at delta = 1e-05",
            f"after {most} steps",
            "Stop training here",
        ):
            assert part in message
    assert issubclass(BudgetSpent, RuntimeError)


@pytest.mark.parametrize("make", [budget, step_budget])
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0 .expected a positive finite"),
        ({"epsilon": math.inf}, "epsilon=inf"),
        ({"delta": 1.0}, "delta=1.0 .expected a number between 0 and 1"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan"),
        ({"sample_rate": 0.0}, "sample_rate=0.0"),
        ({"sample_rate": 1.5}, "sample_rate=1.5 .expected q with 0 < q <= 1"),
        ({"noise_multiplier": 0.1}, "not one step of the plan fits"),
        ({"epsilon": 1e-4}, "not one step of the plan fits"),
    ],
)
def test_no_budget_can_be_made_of_it(make, wrong, match):
    with pytest.raises(ValueError, match=match):
        make(**{"epsilon": 1.0, "delta": DELTA, **PLAN, **wrong})


def test_a_kind_of_step_is_looked_at_once(monkeypatch):
    """The price of a step at a fixed order takes up to milliseconds; asking again, nothing."""
    calls = []

    def counted(sigma: float, rate: float, order: float) -> float:
        calls.append((sigma, rate))
        return rdp(sigma, rate, order)

    monkeypatch.setattr(module, "rdp", counted)
    limit = budget(8.0, DELTA, **PLAN)
    calls.clear()
    history = [(1.0 + i / 100, 0.01, 1) for i in range(50)]
    for _ in range(20):
        limit.admits(history, 1.0, 0.01)
    assert sorted(set(calls)) == sorted(calls) and len(calls) == 50
