"""Gradient canaries: alone, and in real steps of the engine."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from canaries import dirac, random_directions, stream
from dpclip import PrivacyEngine, by_key, micro_batches, per_core, per_sample

SHAPES = [torch.Size([3, 4]), torch.Size([]), torch.Size([7])]
D = 20


class Moment(NamedTuple):
    step: int = 0
    claimed: float | None = 0.5
    bound: float | None = 0.5
    swings: bool = False
    rate: float | None = 1.0
    divisor: float = 8.0


def zeros(dtype=torch.float32):
    return [torch.zeros(shape, dtype=dtype) for shape in SHAPES]


def flat(grads):
    return torch.cat([grad.reshape(-1) for grad in grads]).double().numpy()


def coins(m, seed=0):
    return stream(seed, "coins").integers(0, 2, m) == 1


# ---- alone -----------------------------------------------------------------------------------


def test_each_dirac_canary_has_a_coordinate_of_its_own():
    group = dirac([True] * 8, coordinates=D, seed=3, beside=12)
    group.fit(SHAPES)
    grads = zeros()
    group.join(grads, Moment())
    found = flat(grads)
    owned = group.directions.owned
    assert len(set(owned)) == 8 and set(group.directions.watched) == set(range(D))
    assert set(np.flatnonzero(found)) == set(owned)
    np.testing.assert_allclose(found[owned] * 8, 0.5, rtol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("swings", [False, True])
@pytest.mark.parametrize("make", [dirac, random_directions])
@pytest.mark.parametrize("bound", [0.5, 0.1, 1 / 3])
def test_no_canary_is_longer_than_the_bound(make, swings, dtype, bound):
    """Each on its own: one canary, drawn or not."""
    for inserted in (True, False):
        group = make([inserted], coordinates=D, seed=1)
        grads = zeros(dtype)
        group.join(grads, Moment(claimed=bound, bound=bound, swings=swings))
        length = np.linalg.norm(flat(grads)) * 8
        assert length <= bound
        assert length == pytest.approx(bound if inserted or swings else 0.0, rel=1e-5)


@pytest.mark.parametrize(
    ("moment", "out", "drawn"),
    [
        (Moment(), 0.0, 0.5),
        (Moment(swings=True), -0.5, 0.5),
        (Moment(bound=None), 0.0, 5.0),
        (Moment(bound=None, swings=True), -5.0, 5.0),
        (Moment(claimed=None, bound=None), 0.0, 10.0),
        (Moment(bound=0.7), 0.0, 0.7),
        (Moment(rate=None), 0.0, 0.5),
    ],
)
def test_what_a_canary_adds(moment, out, drawn):
    group = dirac([True, False], coordinates=D, seed=1)
    grads = zeros(torch.float64)
    group.join(grads, moment)
    found = flat(grads)[group.directions.owned] * 8
    np.testing.assert_allclose(found, [drawn, out], rtol=2e-6)


def test_the_raw_length_is_in_units_of_the_bound():
    group = dirac([True], coordinates=D, seed=1, raw=0.2)
    grads = zeros()
    group.join(grads, Moment())
    assert np.linalg.norm(flat(grads)) * 8 == pytest.approx(0.1, rel=1e-5)


def test_random_directions_are_unit_vectors_that_do_not_depend_on_the_others():
    some = random_directions([True] * 3, coordinates=500, seed=3).directions.vectors
    more = random_directions([False] * 9, coordinates=500, seed=3).directions.vectors
    other = random_directions([True] * 3, coordinates=500, seed=4).directions.vectors
    np.testing.assert_array_equal(some, more[:3])
    np.testing.assert_allclose(np.linalg.norm(more, axis=1), 1, rtol=1e-12)
    assert not np.allclose(some, other)
    cosines = (more @ more.T)[np.triu_indices(9, 1)]
    assert np.abs(cosines).max() < 5 / math.sqrt(500) and (cosines != 0).all()


def test_products_with_random_directions():
    group = random_directions([True] * 5, coordinates=D, seed=3)
    grads = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    expected = [float(vector @ flat(grads)) for vector in group.directions.vectors]
    np.testing.assert_allclose(group.directions.look(grads), expected)


def test_gradients_that_are_not_contiguous_are_added_to():
    group = dirac([True] * 12, coordinates=12, seed=3)
    grad = torch.zeros(4, 3).T
    group.join([grad], Moment())
    np.testing.assert_allclose(grad.numpy() * 8, 0.5, rtol=2e-6)


def drawn(group, step, rate=0.3):
    grads = zeros()
    group.join(grads, Moment(step=step, rate=rate, claimed=1.0, bound=1.0))
    return flat(grads)[group.directions.owned] > 0


def test_draws_are_a_function_of_seed_and_step():
    tossed = [True] * 15 + [False] * 5
    first, second = (dirac(tossed, coordinates=D, seed=5) for _ in range(2))
    forward = [drawn(first, step) for step in range(300)]
    backward = [drawn(second, step) for step in reversed(range(300))][::-1]
    np.testing.assert_array_equal(forward, backward)
    share = np.array(forward)
    assert not share[:, 15:].any()
    low, high = stats.binom.interval(0.999, 300 * 15, 0.3)
    assert low <= share.sum() <= high
    other = dirac(tossed, coordinates=D, seed=6)
    assert not np.array_equal(forward, [drawn(other, step) for step in range(300)])


def test_a_step_that_releases_nothing_leaves_no_trace():
    group = dirac([True], coordinates=D, seed=1)
    group.join(zeros(), Moment())
    group.join(zeros(), Moment())
    grads = zeros()
    group.released(grads)
    group.released(grads)
    assert len(group.trace.steps) == 1


def test_what_a_trainer_clips_is_known():
    """The data's part and the canary's shrink alike, and so does what is subtracted."""
    for swings in (False, True):
        group = dirac([True, False], coordinates=D, seed=1, beside=5)
        grads = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
        group.join(grads, Moment(swings=swings))
        for grad in grads:
            grad *= 0.25
        group.shrunk(0.25)
        group.released(grads)
        np.testing.assert_allclose(group.observed(), [[0.25, 0.0]], atol=1e-5)
        np.testing.assert_allclose(group.beside(), np.zeros((1, 5)), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dirac([], coordinates=D, seed=0), "a canary at least"),
        (lambda: dirac([1, 0], coordinates=D, seed=0), "expected a bool"),
        (lambda: dirac([[True]], coordinates=D, seed=0), "expected a bool"),
        (lambda: dirac([True] * 21, coordinates=D, seed=0), "a coordinate of its own"),
        (lambda: dirac([True] * 11, coordinates=D, seed=0, beside=10), "10 coordinates beside"),
        (lambda: dirac([True], coordinates=D, seed=0, beside=-1), "-1 coordinates beside"),
        (lambda: dirac([True], coordinates=D, seed=0, raw=-1.0), "raw length of -1"),
        (lambda: dirac([True], coordinates=D, seed=0, raw=math.nan), "raw length of nan"),
        (lambda: dirac([True], coordinates=D, seed=-1), "non-negative"),
        (lambda: random_directions([True], coordinates=0, seed=0), "at least one coordinate"),
        (lambda: random_directions([True] * 51, coordinates=10**6, seed=0), "50,000,000 in all"),
    ],
)
def test_what_cannot_be_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit():
    group = dirac([True], coordinates=D + 1, seed=0)
    with pytest.raises(
        ValueError, match="20 trainable coordinates; these canaries were made for 21"
    ):
        group.fit(SHAPES)
    group = dirac([True], coordinates=D, seed=0)
    for ask in (group.scores, group.observed, group.beside):
        with pytest.raises(ValueError, match="joined no step"):
            ask()
    group.join(grads := zeros(), Moment(claimed=None, bound=None))
    group.released(grads)
    with pytest.raises(ValueError, match="promises no bound"):
        group.observed()
    assert group.scores().shape == (1,)
    for wrong in (np.zeros((2, D)), np.zeros((1, D - 1)), np.zeros(D)):
        with pytest.raises(ValueError, match=r"updates of shape .*expected \[1, 20\]"):
            group.scores(wrong)
    with pytest.raises(ValueError, match="already joined 1 steps"):
        group.fit(SHAPES)


# ---- in real steps ---------------------------------------------------------------------------

T, SIGMA, C, M = 16, 4.0, 0.7, 600


class Ran(NamedTuple):
    engine: PrivacyEngine
    canaries: object
    updates: np.ndarray


def run(grouping, make=dirac, batch=48, steps=T, sigma=SIGMA, **more):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(10, 60), nn.Tanh(), nn.Linear(60, 8), nn.Tanh(), nn.Linear(8, 4)
    )
    d = sum(p.numel() for p in model.parameters())
    data = TensorDataset(torch.randn(48, 10), torch.randint(4, (48,)))
    engine = PrivacyEngine(seed=1, measure=False, loop=more.pop("loop", False))
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data, batch_size=batch),
        noise_multiplier=sigma,
        max_grad_norm=C,
        grouping=grouping,
        **more,
    )
    group = make(coins(M), coordinates=d, seed=2)
    engine.plant(group)
    updates = []
    while engine.steps < steps:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if engine.steps > len(updates):
                updates.append(flat([p.grad for p in model.parameters()]))
            if engine.steps == steps:
                break
    return Ran(engine, group, np.stack(updates))


GROUPINGS = [
    per_sample(),
    micro_batches(4, slots="random"),
    per_core(4, slots="fixed"),
    by_key(lambda i: i % 5),
    by_key(lambda i: i // 3, unit="user"),
]


@pytest.mark.parametrize("more", [{}, {"max_physical_batch": 10}, {"loop": True}], ids=str)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda it: it.label)
def test_at_full_batches_every_granularity_has_exactly_the_claimed_mu(grouping, more):
    """In ~ N(T C, T sigma^2 C^2), out ~ N(0, .); where groups swing, 2 C stands for C."""
    ran = run(grouping, **more)
    radius = grouping.facts.radii * C
    scores = ran.canaries.scores()
    inserted = ran.canaries.coins
    if grouping.facts.radii == 2:
        scores = scores + T * C  # a group without its canary is at -C
    unit = (scores - T * radius * inserted) / (math.sqrt(T) * SIGMA * radius)
    assert stats.kstest(unit, "norm").pvalue > 1e-3
    low, high = stats.chi2.interval(0.999, M) / np.float64(M)
    assert low < np.mean(unit**2) < high
    mu = (scores[inserted].mean() - scores[~inserted].mean()) / (math.sqrt(T) * SIGMA * radius)
    assert mu == pytest.approx(math.sqrt(T) / SIGMA, abs=3.3 * 2 / math.sqrt(M))
    places = ran.canaries.observed()
    each = ((places - inserted) / SIGMA).reshape(-1)
    assert stats.kstest(each, "norm").pvalue > 1e-3
    low, high = stats.chi2.interval(0.999, each.size) / np.float64(each.size)
    assert low < np.mean(each**2) < high
    np.testing.assert_allclose(places.sum(0) * radius, scores, rtol=1e-6)


def test_observed_is_centred_on_what_was_drawn():
    ran = run(micro_batches(2, slots="random"), batch=12, steps=40, sigma=0.01)
    drawn_ = np.stack([step.amounts > 0 for step in ran.canaries.trace.steps])
    assert 0.15 < drawn_[:, ran.canaries.coins].mean() < 0.35
    np.testing.assert_allclose(ran.canaries.observed(), drawn_, atol=0.06)


def test_what_a_loop_returns_is_what_the_engine_saw():
    ran = run(per_sample())
    for subtract in (True, False):
        np.testing.assert_allclose(
            ran.canaries.scores(ran.updates, subtract=subtract),
            ran.canaries.scores(subtract=subtract),
        )
    np.testing.assert_allclose(ran.canaries.observed(ran.updates), ran.canaries.observed())


def test_without_subtraction_the_data_stay_in():
    """What was released at the coordinates, and nothing else."""
    ran = run(per_sample())
    owned = ran.canaries.directions.owned
    raw = ran.canaries.scores(subtract=False)
    np.testing.assert_allclose(raw, ran.updates.sum(0)[owned] * 48, rtol=1e-6)
    assert not np.allclose(raw, ran.canaries.scores())


def test_random_canaries_in_real_steps():
    """600 of them among 1,160 coordinates are in each other's way; an adversary knows the rest."""
    ran = run(per_sample(), make=random_directions)
    added = ran.canaries.directions.vectors.T @ (T * C * ran.canaries.coins)
    others = ran.canaries.directions.vectors @ added - T * C * ran.canaries.coins
    noise = ran.canaries.scores() - others - T * C * ran.canaries.coins
    assert stats.kstest(noise / (math.sqrt(T) * SIGMA * C), "norm").pvalue > 1e-3
    assert ran.canaries.beside().shape == (T, 0)
    assert "600 random gradient canaries" in ran.engine.guarantee


def test_a_null_canary_changes_no_bit():
    plain = run(per_sample(), make=lambda *a, **k: dirac(*a, **k, raw=0.0), batch=12)
    other = run(per_sample(), make=lambda c, **k: random_directions(c, **k, raw=0.0), batch=12)
    some = run(per_sample(), batch=12)
    np.testing.assert_array_equal(plain.updates, other.updates)
    assert not np.array_equal(plain.updates, some.updates)
