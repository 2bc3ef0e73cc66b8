"""Noise and draws through the real engine, from seeded and from secure streams."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

from dpclip import PrivacyEngine, micro_batches, per_sample
from dpclip.secure import secure
from dpclip.streams import seeded

ALPHA = 1e-3  # seeds and keys are fixed, so that a test that passes goes on to pass
STEPS = 10
SIGMA, C, D = 1.5, 0.8, 8  # D: expected samples, of which there are 40


@pytest.fixture(params=["seeded", "secure"])
def make(request):
    """Makes streams of a number."""
    if request.param == "seeded":
        return lambda number: seeded(number, torch.device("cpu"))
    return lambda number: secure(number.to_bytes(32))


@pytest.fixture
def trained(kit, monkeypatch):
    """Makes a model private with these streams; more than one piece of secure numbers is wide."""

    def private(streams, width=140, dtype=torch.float64, **how):
        monkeypatch.setattr(PrivacyEngine, "_streams", lambda *_: streams)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width)).to(dtype)
        data = TensorDataset(torch.randn(40, 6).to(dtype), torch.randn(40, width).to(dtype))
        how = {"noise_multiplier": SIGMA, "max_grad_norm": C} | how
        return kit.private(model, data, lr=0.0, batch_size=D, **how)

    return private


def noised(trained, scale=1.0, steps=STEPS):
    """Returns, for each step, (sums before noise, p.grad) of each parameter; the model stays."""
    found, batches = [], itertools.chain.from_iterable(itertools.repeat(trained.loader))
    while len(found) < steps:
        x, y = next(batches)
        trained.optimizer.zero_grad()
        (scale * (trained.model(x) - y).square().sum(1).mean()).backward()
        whole = trained.inner.yielded.piece.last
        sums = trained.grads if whole else []
        trained.optimizer.step()
        if whole:
            found.append((sums, trained.grads))
    return found


def noises(trained, std, **how):
    """Returns [steps, coordinates] the noise of each parameter, in units of std."""
    found = noised(trained, **how)
    return [
        torch.stack([((grads[i] - sums[i]) / std).flatten() for sums, grads in found])
        for i in range(len(trained.inner.params))
    ]


STD = SIGMA * C / D
SMALL = 1e-3  # so little that a difference of the sums would drown the noise
HOW = [
    pytest.param({"grouping": per_sample()}, STD, id="sample"),
    pytest.param(
        {"grouping": micro_batches(4, slots="random")}, SIGMA * 2 * C / (D / 4), id="microbatch"
    ),
    pytest.param({"reduction": "sum"}, SIGMA * C, id="sum"),
]


@pytest.mark.parametrize("how, std", HOW)
def test_every_parameter_gets_its_noise_in_every_step(make, trained, how, std):
    """Mean and variance of each parameter in each step, at ALPHA over all of them."""
    found = noises(trained(make(1), **how), std)
    alpha = ALPHA / (2 * len(found) * STEPS)
    for noise in found:
        for step in noise:
            mean, squares = float(step.sum()) / len(step) ** 0.5, float(step.square().sum())
            assert 2 * stats.norm.sf(abs(mean)) > alpha
            spread = stats.chi2(len(step))
            assert 2 * min(spread.cdf(squares), spread.sf(squares)) > alpha
    every = torch.cat([noise.flatten() for noise in found])
    assert stats.kstest(every.numpy(), "norm").pvalue > ALPHA


def test_a_step_of_several_pieces_gets_noise_once(make, trained):
    """The sums before noise are those of all pieces: so they are taken from a run without."""
    plain = noised(trained(make(1), max_physical_batch=3, noise_multiplier=0.0))
    found = noised(trained(make(1), max_physical_batch=3, noise_multiplier=SMALL))
    every = torch.cat(
        [
            ((grad - without) / (SMALL * C / D)).flatten()
            for (_, grads), (_, clean) in zip(found, plain, strict=True)
            for grad, without in zip(grads, clean, strict=True)
        ]
    )
    assert stats.kstest(every.numpy(), "norm").pvalue > ALPHA


def uncorrelated(rows):
    """Whether no two of [n, coordinates] are correlated, at ALPHA over all pairs."""
    rows = rows / rows.norm(dim=1, keepdim=True)
    largest = float((rows @ rows.T).triu(1).abs().max()) * rows.shape[1] ** 0.5
    return largest < stats.norm.isf(ALPHA / (len(rows) * (len(rows) - 1)))


def test_noise_is_independent_over_steps(make, trained):
    for noise in noises(trained(make(1)), STD):
        assert uncorrelated(noise)


def test_noise_is_independent_over_parameters(make, trained):
    """Parameters are of different sizes; what they share is the first coordinates and the last."""
    found = noises(trained(make(1)), STD)
    size = min(noise.shape[1] for noise in found)
    assert uncorrelated(torch.stack([noise[:, :size].flatten() for noise in found]))
    assert uncorrelated(torch.stack([noise[:, -size:].flatten() for noise in found]))


def test_noise_is_independent_over_coordinates(make, trained):
    """At every small distance, of one row of a weight to the next, and of half a parameter."""
    noise = noises(trained(make(1)), STD)[2]
    lags = (*range(1, 20), 140, noise.shape[1] // 2)
    for lag in lags:
        product = (noise[:, lag:] * noise[:, :-lag]).flatten()
        z = float(product.sum()) / len(product) ** 0.5
        assert 2 * stats.norm.sf(abs(z)) > ALPHA / len(lags), lag


def test_noise_is_fresh(make, trained):
    """In float64 no number comes twice."""
    every = torch.cat([noise.flatten() for noise in noises(trained(make(1)), STD, scale=0.0)])
    assert len(every.unique()) == len(every)


def test_two_runs_differ_by_noise_alone(make, trained):
    """The draws are the same: so the difference of two sums is normal, of twice the variance."""

    def run(number):
        streams = make(1)._replace(noise=make(number).noise)
        return noised(trained(streams, noise_multiplier=SMALL))

    runs = [run(2), run(3)]
    difference = torch.cat(
        [
            ((a - b) / (2**0.5 * SMALL * C / D)).flatten()
            for (_, first), (_, second) in zip(*runs, strict=True)
            for a, b in zip(first, second, strict=True)
        ]
    )
    assert stats.kstest(difference.numpy(), "norm").pvalue > ALPHA
    for (_, a), (_, b) in zip(runs[1], run(3), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


PRECISIONS = [torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_noise_is_normal_in_every_precision(make, trained, dtype):
    """Variance and tails, where there is no gradient that the noise would be rounded with."""
    found = noises(trained(make(1), dtype=dtype), STD, scale=0.0)
    assert all(noise.dtype == dtype for noise in found)
    every = torch.cat([noise.flatten() for noise in found]).double()
    squares = stats.chi2(len(every))
    assert squares.ppf(ALPHA / 2) < float(every.square().sum()) < squares.isf(ALPHA / 2)
    beyond, eps = int((every.abs() > 3.4).sum()), torch.finfo(dtype).eps
    fewest, most = (2 * stats.norm.sf(3.4 * (1 + by)) for by in (eps, -eps))  # after rounding
    assert stats.binomtest(beyond, len(every), fewest, "less").pvalue > ALPHA
    assert stats.binomtest(beyond, len(every), most, "greater").pvalue > ALPHA


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_small_sums_survive_the_noise(make, trained, dtype):
    """A sum far below the spacing of floats around the noise is there on average.

    The noise is drawn again and subtracted: what is left must be the sum, and errors of rounding
    that are independent of it, at 5 standard errors.
    """
    made, again = trained(make(1), dtype=dtype, noise_multiplier=40 * SIGMA), make(1).noise
    ((sums, grads),) = noised(made, steps=1)
    wide = torch.promote_types(dtype, torch.float32)
    noise = [again.normal(grad.to(wide), 40 * STD) for grad in grads]
    left = torch.cat([(g.double() - n).flatten() for g, n in zip(grads, noise, strict=True)])
    total = torch.cat([it.double().flatten() for it in sums])
    length, rounding = float(total.norm()), float((left - total).square().mean().sqrt())
    assert length > 0.1
    assert abs(float(left @ total) / length - length) < 5 * rounding


RATE = D / 40


def presence(trained, epochs):
    """Returns [batches, records] whether a record is in a batch."""
    rows = []
    for _ in range(epochs):
        for _x, _y in trained.loader:
            piece = trained.inner.yielded.piece
            rows.append(torch.isin(torch.arange(40), piece.ids[piece.real]))
    return torch.stack(rows)


def test_records_are_drawn_at_their_rate_and_independently(make, trained):
    """Counts of records, sizes of batches, pairs within a batch, and one batch after another."""
    there = presence(trained(make(1), width=4), epochs=80)
    counts, batches = there.sum(0), len(there)
    assert stats.binomtest(int(counts.sum()), there.numel(), RATE).pvalue > ALPHA
    spread = float((counts - batches * RATE).square().sum()) / (batches * RATE * (1 - RATE))
    assert 2 * min(stats.chi2(40).cdf(spread), stats.chi2(40).sf(spread)) > ALPHA
    spread = float((there.sum(1) - D).square().sum()) / (D * (1 - RATE))
    assert abs(spread - batches) < 4 * (2 * batches) ** 0.5
    for first, second in ((there[:, :-1], there[:, 1:]), (there[:-1], there[1:])):
        both = int((first & second).sum())
        assert stats.binomtest(both, first.numel(), RATE**2).pvalue > ALPHA


def test_order_and_slots_are_random(make, trained):
    """Ranks of records within their batch, and slots, are uniform and apart from one another."""
    made = trained(make(1), width=4, grouping=micro_batches(2, slots="random"))
    rising, slots = [], []
    for _ in range(80):
        for _x, _y in made.loader:
            piece = made.inner.yielded.piece
            rising += (piece.ids[:-1] < piece.ids[1:])[::2].tolist()
            slots.append(piece.slots)
    assert stats.binomtest(sum(rising), len(rising), 0.5).pvalue > ALPHA
    every = torch.cat(slots)
    assert stats.chisquare(torch.bincount(every, minlength=4)).pvalue > ALPHA
