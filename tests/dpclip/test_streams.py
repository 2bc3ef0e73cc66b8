"""Streams, seeded and secure ones alike: every number is what its name says."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from dpclip.secure import secure
from dpclip.streams import Streams, seeded

CPU = torch.device("cpu")
ALPHA = 1e-3  # seeds and keys are fixed, so that a test that passes goes on to pass


@pytest.fixture(params=["seeded", "secure"])
def streams(request) -> Streams:
    return seeded(0, CPU) if request.param == "seeded" else secure(bytes(range(32)))


def purposes(streams):
    return {name: getattr(streams, name) for name in ("draws", "loose", "noise")}


def test_uniform_numbers(streams):
    found = streams.draws.uniform(100_000)
    assert found.dtype == torch.float64 and found.shape == (100_000,)
    assert float(found.min()) >= 0 and float(found.max()) < 1
    assert stats.kstest(found.numpy(), "uniform").pvalue > ALPHA


def test_uniform_numbers_have_53_random_bits(streams):
    found = streams.draws.uniform(20_000)
    bits = (found * 2**53).long()
    assert torch.equal(bits * 2.0**-53, found)
    for place in range(53):
        ones = int((bits >> place & 1).sum())
        assert stats.binomtest(ones, 20_000, 0.5).pvalue > ALPHA / 53, place


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers(streams, high):
    found = streams.draws.integers(high, 100_000)
    assert found.dtype == torch.int64
    counts = torch.bincount(found, minlength=high)
    assert len(counts) == high
    if high > 1:
        assert stats.chisquare(counts.numpy()).pvalue > ALPHA


def test_order_takes_every_permutation_alike(streams):
    numbers = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    found = [numbers[tuple(streams.draws.order(4).tolist())] for _ in range(6000)]
    assert stats.chisquare(torch.bincount(torch.tensor(found), minlength=24)).pvalue > ALPHA


def test_order_of_many(streams):
    found = streams.draws.order(5000)
    assert found.dtype == torch.int64
    assert torch.equal(found.sort().values, torch.arange(5000))
    assert abs(stats.spearmanr(found, range(5000)).statistic) < 0.05


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_draw_or_one(streams, count):
    stream = streams.draws
    assert len(stream.uniform(count)) == len(stream.integers(3, count)) == count
    assert stream.order(count).tolist() == list(range(count))
    assert stream.normal(torch.empty(count, 3), 1.0).shape == (count, 3)
    assert stream.normal(torch.empty(()), 1.0).shape == ()


def normal(stream, count=200_000, dtype=torch.float64, std=1.0):
    return stream.normal(torch.empty(count, dtype=dtype), std)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers(streams, dtype):
    found = normal(streams.noise, dtype=dtype, std=3.0)
    assert found.dtype == dtype
    assert stats.kstest(found.double().numpy() / 3, "norm").pvalue > ALPHA
    assert len(found.unique()) > 0.97 * len(found)  # float32 has few values to choose from


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tails_are_there_in_every_precision(streams, dtype):
    found = normal(streams.noise, 1_000_000, dtype).double()
    squares = stats.chi2(len(found))
    assert squares.ppf(ALPHA / 2) < float(found.square().sum()) < squares.isf(ALPHA / 2)
    edge = 3.5 - torch.finfo(dtype).eps  # numbers from here on are rounded to 3.5 and more
    beyond = int((found.abs() >= 3.5).sum())
    assert stats.binomtest(beyond, len(found), 2 * stats.norm.sf(edge)).pvalue > ALPHA


def test_normal_numbers_have_shape_and_type(streams):
    like = torch.empty(3, 5, 7, dtype=torch.float32).permute(2, 0, 1)
    found = streams.noise.normal(like, 1.0)
    assert found.shape == (7, 3, 5) and found.dtype == torch.float32
    assert not found.requires_grad


def uncorrelated(vectors, tests):
    """Whether no two of the vectors are correlated, at ALPHA over so many tests like this one."""
    rows = torch.stack([v - v.mean() for v in vectors])
    rows /= rows.norm(dim=1, keepdim=True)
    size = rows.shape[1]
    pairs = (rows @ rows.T).triu(1)
    count = tests * len(vectors) * (len(vectors) - 1) / 2
    return float(pairs.abs().max()) * size**0.5 < stats.norm.isf(ALPHA / 2 / count)


def test_calls_are_independent(streams):
    assert uncorrelated([normal(streams.noise, 50_000) for _ in range(8)], 2)
    assert uncorrelated([streams.draws.uniform(50_000) for _ in range(8)], 2)


def test_coordinates_are_independent(streams):
    """At every small distance, and at those of the pieces and half-pieces numbers are drawn in."""
    found = normal(streams.noise, 2**17)
    for values in (found, found.square()):
        for lag in (*range(1, 40), 2**12, 2**13, 2**14, 2**15, 2**16):
            assert uncorrelated([values[lag:], values[:-lag]], 88), lag


def test_purposes_are_independent(streams):
    drawn = {name: it.uniform(50_000) for name, it in purposes(streams).items()}
    for a, b in itertools.combinations(drawn.values(), 2):
        assert not (a == b).any()
    assert uncorrelated(list(drawn.values()), 2)
    drawn = {name: normal(it, 50_000) for name, it in purposes(streams).items()}
    assert uncorrelated(list(drawn.values()), 2)


def test_global_randomness_is_left_alone(streams):
    before = torch.get_rng_state()
    for stream in purposes(streams).values():
        stream.uniform(3), stream.integers(3, 3), stream.order(3), normal(stream, 100)
    assert torch.equal(torch.get_rng_state(), before)


def everything(stream):
    small = [normal(stream, 3, torch.float32), normal(stream, 1)]  # these leave a half behind
    return [stream.uniform(5), stream.integers(9, 5), stream.order(5), normal(stream, 40), *small]


@pytest.mark.parametrize("purpose", ["draws", "loose", "noise"])
def test_seeded_streams_continue_where_they_were(purpose):
    stream = getattr(seeded(3, CPU), purpose)
    everything(stream)
    state = stream.state().clone()
    first = everything(stream)
    everything(stream)
    other = getattr(seeded(4, CPU), purpose)
    for again in (stream, other):
        again.restore(state)
        assert all(torch.equal(a, b) for a, b in zip(first, everything(again), strict=True))


def test_a_seed_means_the_same_streams():
    for seed in (0, 1, 2**100 + 1):
        a, b = seeded(seed, CPU), seeded(seed, CPU)
        assert a.workers == b.workers
        for name in purposes(a):
            pairs = zip(everything(getattr(a, name)), everything(getattr(b, name)), strict=True)
            assert all(torch.equal(x, y) for x, y in pairs)


def test_seeds_are_told_apart():
    drawn = {tuple(seeded(s, CPU).noise.uniform(4).tolist()) for s in (0, 1, 2**32, 2**100, None)}
    assert len(drawn) == 5
    assert not torch.equal(seeded(None, CPU).noise.uniform(4), seeded(None, CPU).noise.uniform(4))


def test_phases_share_no_stream():
    made = [stream for phase in range(3) for stream in seeded(0, CPU, phase)[:3]]
    assert uncorrelated([normal(stream, 20_000) for stream in made], 1)
    assert len({seeded(0, CPU, phase).workers for phase in range(3)}) == 3
    assert seeded(0, CPU, 0).workers == seeded(0, CPU).workers


def test_a_seed_means_the_same_in_every_version():
    """Published results name their seed."""
    streams = seeded(0, CPU)
    assert streams.draws.uniform(2).tolist() == [0.09477926990366836, 0.20992820585819738]
    assert streams.noise.uniform(2).tolist() == [0.9676638464408029, 0.2023112780294115]
    assert streams.workers == 3685993406


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeded_noise_is_drawn_on_its_device():
    found = seeded(0, torch.device("cuda")).noise
    state = found.state()
    first = normal(found).cuda()
    assert stats.kstest(first.cpu().numpy(), "norm").pvalue > ALPHA
    found.restore(state)
    assert torch.equal(normal(found).cuda(), first)
    like = torch.empty(100_000, device="cuda")
    assert secure(bytes(32)).noise.normal(like, 1.0).device == like.device
