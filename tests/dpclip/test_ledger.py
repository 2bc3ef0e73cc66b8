"""Epsilon against published numbers, closed forms and another library."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dp_accounting import dp_event, pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from dpclip.accounting import prv, spending
from dpclip.accounting.history import merged, rounded
from dpclip.accounting.renyi import rdp
from dpclip.accounting.solving import largest, noise_for
from dpclip.accounting.spending import Spent, epsilon, spent
from dpclip.ledger import Ledger
from dpclip.sensitivity import effective_multiplier, rows_multiplier

RUN = [(1.0, 0.01, 2000)]
DELTA = 1e-5
SLOW = pytest.mark.slow
GRID = [  # (q, noise multiplier, steps)
    *((0.001, 0.6, 1000), (0.001, 1.0, 10_000), (0.001, 2.0, 1000), (0.001, 0.8, 100_000)),
    *((0.004, 1.1, 14_000), (0.004, 0.7, 1000), (0.004, 1.3, 2340)),
    *((0.01, 1.0, 2000), (0.01, 0.5, 100), (0.01, 2.0, 10_000), (0.01, 4.0, 100_000)),
    *((0.01, 0.8, 10), (0.05, 1.0, 200), (0.05, 2.0, 1000), (0.05, 1.5, 5000), (0.05, 3.0, 100)),
    *((0.1, 0.7, 10), (0.1, 1.0, 100), (0.1, 3.0, 1000), (0.1, 10.0, 10_000)),
    *((0.25, 1.0, 10), (0.25, 4.0, 300), (0.5, 1.0, 1), (0.5, 2.0, 10), (0.5, 6.0, 200)),
    *((0.9, 3.0, 10), (1.0, 1.0, 1), (1.0, 5.0, 10), (1.0, 20.0, 100), (1.0, 100.0, 10_000)),
]


def oracle(history, delta: float = DELTA) -> float:
    """dp-accounting's PLD for add/remove, on a grid finer than the loss of one step."""
    fine = min(1e-4, *(max(1e-6, 0.1 * q / sigma) for sigma, q, _ in history))
    accountant = pld.PLDAccountant(value_discretization_interval=fine)
    for sigma, q, steps in history:
        step = dp_event.GaussianDpEvent(sigma)
        accountant.compose(dp_event.PoissonSampledDpEvent(q, step) if q < 1 else step, steps)
    return accountant.get_epsilon(delta)


def gaussian(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism (Balle and Wang 2018, Theorem 5)."""

    def excess(e: float) -> float:
        return ndtr(mu / 2 - e / mu) - math.exp(e + log_ndtr(-mu / 2 - e / mu)) - delta

    return brentq(excess, 0, 700, xtol=1e-12) if excess(0) > 0 else 0.0


def once(q: float, sigma: float, delta: float) -> float:
    """The exact epsilon of one subsampled Gaussian step, q < 1: the worse of add and remove."""

    def edge(loss: float) -> float:
        return sigma**2 * math.log((loss - 1 + q) / q) + 0.5

    def excess(e: float) -> float:
        x = edge(math.exp(e))
        remove = (1 - q) * ndtr(-x / sigma) + q * ndtr((1 - x) / sigma)
        remove -= math.exp(e) * ndtr(-x / sigma)
        if math.exp(-e) <= 1 - q:
            return remove - delta
        x = edge(math.exp(-e))
        add = ndtr(x / sigma)
        add -= math.exp(e) * ((1 - q) * ndtr(x / sigma) + q * ndtr((x - 1) / sigma))
        return max(remove, add) - delta

    return brentq(excess, 1e-12, 100, xtol=1e-13) if excess(1e-12) > 0 else 0.0


def test_epsilon_of_the_usual_run():
    assert epsilon("prv", RUN, 1e-5) == pytest.approx(2.594, abs=1e-3)
    assert epsilon("rdp", RUN, 1e-5) == pytest.approx(2.867, abs=1e-3)


@pytest.mark.parametrize(("q", "sigma", "steps"), GRID)
def test_both_accountants_against_pld(q, sigma, steps):
    """Opacus' own PRV is 18 % off at q = .001, sigma = 2, 1000 steps."""
    history = [(sigma, q, steps)]
    wanted, found = oracle(history), spent("prv", history, DELTA)
    assert found.by == "prv"
    assert wanted - 1e-3 <= found.epsilon <= max(1.01 * wanted, wanted + 1e-3)
    assert found.epsilon <= epsilon("rdp", history, DELTA)


@pytest.mark.parametrize(
    "history",
    [
        [(1.0, 0.01, 500), (2.0, 0.02, 1000), (1.5, 0.005, 301)],
        [(0.7, 0.01, 20), (4.0, 1.0, 3), (0.9, 0.1, 6)],
        [(sigma, 0.02, 50) for sigma in np.linspace(1, 2, 6)],
    ],
)
def test_steps_of_several_kinds_against_pld(history):
    wanted = oracle(history)
    assert wanted - 1e-3 <= epsilon("prv", history, DELTA) <= 1.01 * wanted
    assert epsilon("rdp", history, DELTA) > wanted
    assert epsilon("prv", history[::-1], DELTA) == pytest.approx(epsilon("prv", history, DELTA))


def test_many_kinds_of_steps_are_rounded_up(monkeypatch):
    """A noise schedule: composing 400 kinds of steps takes a minute and two gigabytes."""
    history = [(sigma, 0.01, 5) for sigma in np.linspace(1, 2, 100)]
    found, bound = spent("prv", history, DELTA), spent("rdp", history, DELTA)
    assert found.because == bound.because == "100 kinds of steps rounded up to 30"
    assert found.by == "prv" and found.epsilon < bound.epsilon
    monkeypatch.setattr(spending, "_PAIRS", 100)
    exact = spent("rdp", history, DELTA)
    assert exact.epsilon <= bound.epsilon <= 1.02 * exact.epsilon and not exact.because


kinds = st.tuples(st.floats(0.3, 100), st.floats(1e-4, 1), st.integers(1, 1000))


@given(st.lists(kinds, min_size=1, max_size=60), st.integers(4, 12))
def test_rounding_up_never_spends_less(history, limit):
    few = rounded(merged(history), limit)
    assert len(few) <= max(limit, 4)
    assert sum(n for *_, n in few) == sum(n for *_, n in history)
    if len(merged(history)) <= limit:
        assert few == merged(history)
    for order in (2.0, 8.0, 32.0):
        cost, before = (sum(n * rdp(s, q, order) for s, q, n in some) for some in (few, history))
        assert cost >= before * (1 - 1e-9) - 1e-12


def test_composition_has_no_order():
    turns = [(1.0, 0.01), (2.0, 0.02)] * 300
    ledger = Ledger("rdp")
    for sigma, q in turns:
        ledger.charge(sigma, sample_rate=q)
    assert ledger.history == [(1.0, 0.01, 300), (2.0, 0.02, 300)]
    alone = [(sigma, q, 1) for sigma, q in turns]
    assert ledger.epsilon(DELTA) == epsilon("rdp", alone, DELTA)
    assert ledger.epsilon(DELTA) > epsilon("rdp", ledger.history[:1], DELTA)
    assert spent("prv", alone, DELTA).because == ""


# ---- where numbers end ---------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-8, 1e-12])
@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (0.3, 10), (30.0, 1000), (1000.0, 10**6)])
def test_without_sampling_it_is_the_gaussian_mechanism(sigma, steps, delta):
    """At delta = 1e-12 and a million steps PRV's rounding errors took .58 off."""
    exact = gaussian(math.sqrt(steps) / sigma, delta)
    found = spent("prv", [(sigma, 1.0, steps)], delta)
    assert exact <= found.epsilon <= 1.1 * exact
    assert found.by == "rdp" or found.epsilon <= max(1.01 * exact, exact + 1e-3)
    if steps * 1e-16 > delta:
        assert found.by == "rdp" and "rounding errors reach delta" in found.because


@pytest.mark.parametrize("q", [1e-6, 1e-3, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-5, *(pytest.param(d, marks=SLOW) for d in (1e-2, 1e-12))])
def test_extreme_runs_never_fail_and_never_shrink(q, sigma, delta):
    before = 0.0
    for steps in (1, 10, 1000):
        found = spent("prv", [(sigma, q, steps)], delta)
        assert math.isfinite(found.epsilon) and found.epsilon >= before - 1e-6
        assert found.epsilon <= epsilon("rdp", [(sigma, q, steps)], delta)
        before = found.epsilon
        if steps == 1:
            assert found.epsilon >= once(q, sigma, delta)


def test_a_long_run_of_rare_losses_does_not_come_in_at_the_other_end():
    """The mean of one step lies between two points of the grid, a million times over."""
    short, long = ([(0.3, 1e-4, steps)] for steps in (10**5, 10**6))
    assert 10 < epsilon("prv", short, 1e-2) < epsilon("prv", long, 1e-2)


def test_epsilon_grows_with_every_step():
    values = [epsilon("prv", [(1.0, 0.01, steps)], DELTA) for steps in range(2000, 2010)]
    assert all(b > a for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("history", "delta", "because"),
    [
        ([(0.05, 0.1, 1000)], 1e-5, "grid would be too large"),
        ([(1.0, 0.5, 10**7)], 1e-5, "grid would be too large"),
        ([(10.0, 1e-6, 10**6)], 1e-5, "below PRV's with its error bound"),
    ],
)
def test_the_rdp_bound_stands_in_by_name(history, delta, because):
    found = spent("prv", history, delta)
    assert found.by == "rdp" and because in found.because
    assert found.epsilon == epsilon("rdp", history, delta)


def test_what_opacus_refuses_to_compose(monkeypatch):
    def refuses(*_: object) -> None:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr(prv, "discretize", refuses)
    found = spent("prv", RUN, DELTA)
    assert found == Spent(epsilon("rdp", RUN, DELTA), "rdp", found.because)
    assert found.because.startswith("PRV failed: Discrete mean")


def test_guarantees_begin_with_the_accountant_that_was_used():
    ledger = Ledger("prv")
    assert ledger.accounting == "PRV accounting"
    ledger.history = [(0.05, 0.1, 1000)]
    ledger.epsilon(DELTA)
    assert ledger.accounting.startswith("RDP accounting (PRV's grid would be too large for 1000")
    assert ledger.accounting.endswith(") at delta = 1e-05")
    ledger.history = RUN
    ledger.epsilon(DELTA)
    assert ledger.accounting == "PRV accounting"


# ---- the ledger ----------------------------------------------------------------------------


def test_history_in_parts_is_the_whole():
    ledger = Ledger("rdp")
    for _ in range(3):
        ledger.charge(1.0, sample_rate=0.01)
    ledger.charge(2.0, sample_rate=0.01)
    ledger.charge(1.0, count_shift=0.5, sample_rate=0.01)
    assert ledger.history[:2] == [(1.0, 0.01, 3), (2.0, 0.01, 1)]
    assert ledger.history[2][0] == pytest.approx((1 + 0.25) ** -0.5)
    assert ledger.epsilon(1e-5) == epsilon("rdp", ledger.history, 1e-5)


def test_every_step_says_how_it_was_drawn():
    ledger = Ledger("rdp")
    assert ledger.sample_rate is None and ledger.sampling == "Poisson sampling"
    ledger.charge(1.0, sample_rate=0.01)
    assert ledger.sample_rate == 0.01 and ledger.sampling == "Poisson sampling at q = 0.01"
    ledger.charge(1.0, sample_rate=0.03)
    assert ledger.sampling == "Poisson sampling at q = 0.01 to 0.03"
    assert ledger.history == [(1.0, 0.01, 1), (1.0, 0.03, 1)] and not ledger.reasons
    ledger.charge(1.0, sample_rate=None)
    assert ledger.epsilon(DELTA) == math.inf
    assert ledger.reasons == ["batches were not drawn by Poisson sampling"]


def test_a_rate_that_nobody_told_is_no_rate():
    """Not even after a step that told it."""
    ledger = Ledger("rdp")
    ledger.charge(1.0, sample_rate=0.01)
    ledger.charge(1.0)
    assert ledger.epsilon(DELTA) == math.inf and ledger.sample_rate == 0.01


@pytest.mark.parametrize(
    ("noise", "rate"),
    [(-1.0, 0.1), (math.nan, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, 1.1), (1.0, math.nan)],
)
def test_steps_that_cannot_be(noise, rate):
    ledger = Ledger("rdp")
    with pytest.raises(ValueError, match="expected a finite noise multiplier >= 0 and 0 < q <= 1"):
        ledger.charge(noise, sample_rate=rate)
    assert ledger.history == [] and not ledger.reasons


def test_a_history_is_taken_back():
    ledger = Ledger("rdp")
    ledger.history = [(1.0, 0.01, 3), (2.0, 0.02, 1), (1.0, 0.01, 4)]
    ledger.charge(2.0, sample_rate=0.02)
    assert ledger.history == [(1.0, 0.01, 7), (2.0, 0.02, 2)]
    assert ledger.sample_rate == 0.02


def test_nothing_spent_and_nothing_claimed():
    ledger = Ledger("prv")
    assert ledger.epsilon(1e-5) == 0.0
    ledger.charge(0.0, sample_rate=0.01)
    assert ledger.epsilon(1e-5) == math.inf and ledger.reasons == ["no noise was added"]
    ledger.void("another")
    ledger.void("another")
    assert ledger.reasons == ["no noise was added", "another"]
    ledger.charge(1.0, sample_rate=0.01)
    assert ledger.history == [] and ledger.sample_rate is None


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_delta_outside_of_its_range(delta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        epsilon("rdp", RUN, delta)


@pytest.mark.parametrize("name", ["gdp", "PRV", ""])
def test_other_accountants_are_refused(name):
    with pytest.raises(ValueError, match='expected "prv" or "rdp"'):
        Ledger(name)
    with pytest.raises(ValueError, match='expected "prv" or "rdp"'):
        epsilon(name, RUN, DELTA)


# ---- the other way round -------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["rdp", "prv"])
@pytest.mark.parametrize(
    ("target", "q", "steps"),
    [(1.0, 0.01, 500), (8.0, 0.1, 100), (0.3, 1.0, 10), (50.0, 0.02, 2000), (2.0, 0.5, 1)],
)
def test_noise_for_a_target(mechanism, target, q, steps, monkeypatch):
    calls = []
    monkeypatch.setattr(spending, "spent", lambda *run: calls.append(run[0]) or spent(*run))
    sigma = noise_for(mechanism, target, 1e-5, q, steps)
    assert calls.count("rdp") <= 14 and calls.count("prv") <= 5
    monkeypatch.undo()
    assert 0.99 * target <= epsilon(mechanism, [(sigma, q, steps)], 1e-5) <= target


def test_noise_for_rows_beside_a_noised_count():
    target, q, steps, shift = 1.0, 0.01, 500, 0.5
    rows = noise_for("prv", target, 1e-5, q, steps, count_shift=shift)
    both = effective_multiplier(rows, shift)
    assert both < rows
    assert 0.99 * target <= epsilon("prv", [(both, q, steps)], 1e-5) <= target
    alone = noise_for("prv", target, 1e-5, q, steps)
    assert both == pytest.approx(alone, rel=1e-12)
    with pytest.raises(ValueError, match=r"count of the quantile alone spends epsilon .* by more"):
        noise_for("prv", target, 1e-5, q, steps, count_shift=1.1 / alone)
    assert noise_for("prv", target, 1e-5, q, steps, count_shift=0.99 / alone) > 5 * alone


def test_the_factor_for_a_count_that_spends_too_much_is_right():
    with pytest.raises(ValueError, match="by more than") as raised:
        noise_for("rdp", 1.0, 1e-5, 0.01, 500, count_shift=2.0)
    factor = float(str(raised.value).split("by more than ")[1].split(",")[0])
    assert epsilon("rdp", [(factor / 2.0, 0.01, 500)], 1e-5) == pytest.approx(1.0, rel=0.02)


@given(st.floats(1e-3, 1e4), st.floats(0, 0.999999))
def test_rows_multiplier_undoes_effective_multiplier(effective, share):
    rows = rows_multiplier(effective, share / effective)
    assert rows >= effective
    assert effective_multiplier(effective, 0.0) == effective == rows_multiplier(effective, 0.0)
    assert effective <= effective_multiplier(rows, share / effective) <= effective * (1 + 1e-9)


def test_no_noise_on_the_rows_makes_up_for_a_count():
    with pytest.raises(ValueError, match="Give the count more noise"):
        rows_multiplier(2.0, 0.5)


@settings(max_examples=200)
@given(st.floats(0.3, 3), st.floats(0, 10), st.floats(-6, 6), st.floats(-3, 0))
def test_largest_finds_the_last_x_within_the_target(power, floor, scale, start):
    """On curves that bend like epsilon: flat at first, then a power, then a larger one."""
    target, calls = floor + 10**scale, []

    def spending(x: float) -> float:
        calls.append(x)
        return floor + 10**scale * 0.5 * (x**power + x ** (2 * power))

    x = largest(spending, 10**start, target)
    assert spending(x) <= target
    assert spending(x) >= 0.99 * target or spending(x * (1 + 1e-8)) > target
    assert len(calls) < 40


def test_largest_stops_where_neighbours_part():
    calls = []
    steps = largest(lambda x: calls.append(x) or 3.0 * int(x), 1.0, 10.0, apart=1.0)
    assert int(steps) == 3 and len(calls) < 8


def test_targets_that_nothing_reaches():
    for target in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive finite"):
            noise_for("rdp", target, 1e-5, 0.1, 10)
    with pytest.raises(ValueError, match="out of reach"):
        noise_for("rdp", 0.001, 1e-5, 0.1, 10)
