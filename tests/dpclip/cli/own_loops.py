"""Training loops of a user's own, for `--loop own_loops:NAME`: two good ones, and others."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from dpclip import micro_batches


def model(seed, hidden=80):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, hidden), nn.ReLU(), nn.Linear(hidden, 4))


def private(factory, dataset, seed, *, batch=64, sigma=4.0, bound=0.5, hidden=80, **more):
    module = model(seed, hidden)
    engine = factory()
    return engine, *engine.make_private(
        module=module,
        optimizer=torch.optim.Adam(module.parameters(), lr=0.01),
        data_loader=DataLoader(dataset, batch_size=batch),
        noise_multiplier=sigma,
        max_grad_norm=bound,
        **more,
    )


def updates(engine, module, optimizer, loader, *, steps=16, mend=None):
    """Returns [T, d]; `mend` may change p.grad after each step, given that of before."""
    released, params = [], list(module.parameters())
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    while engine.steps < steps:
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        before = [None if p.grad is None else p.grad.clone() for p in params]
        taken = engine.steps
        optimizer.step()
        if engine.steps > taken:
            if mend is not None:
                mend(params, before)
            released.append(torch.cat([p.grad.flatten() for p in params]))
    return torch.stack(released)


# ---- as they should be -----------------------------------------------------------------------


def good(factory, dataset, seed):
    return updates(*private(factory, dataset, seed))


def sampled(factory, dataset, seed):
    more = {"batch": 16, "sigma": 2.0, "max_physical_batch": 6}
    return updates(*private(factory, dataset, seed, **more), steps=24)


def grouped(factory, dataset, seed):
    return updates(*private(factory, dataset, seed, grouping=micro_batches(4, slots="random")))


# ---- with a defect of their own --------------------------------------------------------------


def noiseless(factory, dataset, seed):
    """Puts the gradient from before the noise back."""

    def mend(params, before):
        for param, grad in zip(params, before, strict=True):
            param.grad = grad

    return updates(*private(factory, dataset, seed), mend=mend)


def eight_at_once(factory, dataset, seed):
    """Steps eight times on each batch, seven of them behind the accountant's back."""
    draw = torch.Generator().manual_seed(seed)

    def mend(params, before):
        for param, grad in zip(params, before, strict=True):
            noises = torch.randn((7, *grad.shape), generator=draw) * 4.0 * 0.5 / 64
            param.grad = torch.stack([param.grad, *(grad + noise for noise in noises)]).mean(0)

    return updates(*private(factory, dataset, seed), mend=mend)


def averaged(factory, dataset, seed):
    """Replaces each step's noise by the mean of the noise so far."""
    noises = []

    def mend(params, before):
        noises.append([p.grad - b for p, b in zip(params, before, strict=True)])
        for i, param in enumerate(params):
            param.grad = before[i] + torch.stack([noise[i] for noise in noises]).mean(0)

    return updates(*private(factory, dataset, seed), mend=mend)


# ---- that cannot be judged -------------------------------------------------------------------


def failing(factory, dataset, seed):
    raise KeyError("weights")


def idle(factory, dataset, seed):
    return torch.zeros(16, 2004)


def untrained(factory, dataset, seed):
    private(factory, dataset, seed)
    return torch.zeros(16, 2004)


def twice(factory, dataset, seed):
    good(factory, dataset, seed)
    return good(factory, dataset, seed)


def tiny(factory, dataset, seed):
    return updates(*private(factory, dataset, seed, hidden=8))


def one_short(factory, dataset, seed):
    return good(factory, dataset, seed)[1:]


def narrow(factory, dataset, seed):
    return good(factory, dataset, seed)[:, 1:]


def diverged(factory, dataset, seed):
    released = good(factory, dataset, seed)
    released[3] = torch.nan
    return released


def a_list(factory, dataset, seed):
    return list(good(factory, dataset, seed))


def shuffled_batches(factory, dataset, seed):
    return updates(*private(factory, dataset, seed, poisson_sampling=False))


def without_noise(factory, dataset, seed):
    return updates(*private(factory, dataset, seed, sigma=0.0))


def quieter_later(factory, dataset, seed):
    engine, *rest = private(factory, dataset, seed)
    first = updates(engine, *rest, steps=8)
    engine.noise_multiplier = 3.0
    return torch.cat([first, updates(engine, *rest, steps=16)])


def epsilon_of_ten(factory, dataset, seed):
    return updates(*private(factory, dataset, seed, sigma=2.0))


NUMBER = 3
