"""Groups of an audit join each step once, after the weighting and before the noise."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpclip import (
    PrivacyEngine,
    by_key,
    clip,
    clip_to_min,
    micro_batches,
    normalize,
    per_core,
    per_layer,
    per_sample,
    quantile,
    uniform,
)
from dpclip.extra_groups import bound_in_force

GROUPINGS = [
    per_sample(),
    micro_batches(3),
    micro_batches(3, slots="random"),
    per_core(3, slots="fixed"),
    by_key(lambda i: i % 4),
    by_key(lambda i: i // 3, unit="user"),
]


class Visitors:
    """Add numbers that depend on the step, and write down all that happens."""

    label = "3 visitors"

    def __init__(self, size: float = 1.0) -> None:
        self.size = size
        self.moments, self.added, self.seen, self.factors = [], [], [], []

    def fit(self, shapes):
        self.shapes = list(shapes)

    def join(self, grads, moment):
        self.moments.append(moment)
        draw = torch.Generator().manual_seed(moment.step)
        self.added.append([torch.randn(g.shape, generator=draw, dtype=g.dtype) for g in grads])
        for grad, more in zip(grads, self.added[-1], strict=True):
            grad.add_(more * self.size / moment.divisor)

    def shrunk(self, factor):
        self.factors.append(factor)

    def released(self, grads):
        self.seen.append([grad.clone() for grad in grads])


def label(value):
    return str(getattr(value, "label", value))


def train(trained, kit, steps=4, parts=1, between=None):
    """Returns p.grad as it was before and after each step, [steps] of L tensors."""
    before, after = [], []
    epochs = itertools.chain.from_iterable(itertools.repeat(trained.loader))
    for x, y in epochs:
        trained.optimizer.zero_grad()
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            loss = kit.mean_loss(trained.model(a), b)
            loss.backward()
        if between is not None:
            between(trained.model)
        here = [None if p.grad is None else p.grad.clone() for p in trained.inner.params]
        taken = trained.engine.steps
        trained.optimizer.step()
        if trained.engine.steps > taken:
            before.append(here)
            after.append(trained.grads)
        if trained.engine.steps >= steps:
            return before, after
    raise AssertionError


@pytest.mark.filterwarnings("ignore:.*supports no epsilon")
@pytest.mark.parametrize("more", [{}, {"loop": True}, {"max_physical_batch": 3}], ids=str)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=label)
def test_they_join_the_sum_once_a_step_whatever_the_grouping(kit, grouping, more):
    """The same draws, groups and noise with and without them: the rest is theirs over D."""
    sigma = 0.7

    def run(visitors):
        torch.manual_seed(3)
        trained = kit.private(
            kit.Mlp(),
            kit.vectors(),
            grouping=grouping,
            max_grad_norm=0.3,
            noise_multiplier=sigma,
            lr=0.0,
            **more,
        )
        if visitors is not None:
            trained.engine.plant(visitors)
        return trained, train(trained, kit, 5)[1]

    visitors = Visitors()
    trained, with_them = run(visitors)
    _, without = run(None)
    assert [m.step for m in visitors.moments] == list(range(5))
    assert len(visitors.seen) == 5 and visitors.factors == []
    assert visitors.shapes == [p.shape for p in trained.inner.params]
    for step, moment in enumerate(visitors.moments):
        expected = [
            alone + added / moment.divisor
            for alone, added in zip(without[step], visitors.added[step], strict=True)
        ]
        kit.close(with_them[step], expected, 1e-12)
        kit.close(visitors.seen[step], with_them[step], 0.0)
        assert moment.rate == pytest.approx(8 / 40)
        public = trained.inner.yielded.divisor
        assert public is None or moment.divisor == pytest.approx(public.groups)


def test_they_are_in_the_gradient_as_soon_as_the_sum_is_whole(kit):
    """A loop that keeps p.grad from before the noise keeps them as well."""
    visitors = Visitors(100.0)
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    trained.engine.plant(visitors)
    before, after = train(trained, kit, 3)
    for step, moment in enumerate(visitors.moments):
        longest = sum(float(g.norm()) ** 2 for g in before[step]) ** 0.5
        alone = sum(float(a.norm()) ** 2 for a in visitors.added[step]) ** 0.5
        assert longest == pytest.approx(100 * alone / moment.divisor, rel=0.05)
        assert not torch.equal(before[step][0], after[step][0])


def test_slices_of_a_batch_are_one_step(kit):
    visitors = Visitors()
    trained = kit.private(
        kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0, batch_size=40
    )
    trained.engine.plant(visitors)
    train(trained, kit, 3, parts=4)
    assert [m.step for m in visitors.moments] == [0, 1, 2] and len(visitors.seen) == 3
    assert trained.engine.get_epsilon(1e-5) < math.inf


def test_nothing_added_changes_no_bit(kit):
    """Neither draws, nor noise, nor rounding."""

    def run(visitors):
        torch.manual_seed(3)
        trained = kit.private(
            kit.Mlp().float(),
            TensorDataset(torch.randn(40, 6).float(), torch.randint(5, (40,))),
            max_grad_norm=0.3,
            noise_multiplier=1.0,
            max_physical_batch=5,
        )
        if visitors is not None:
            trained.engine.plant(visitors)
        train(trained, kit, 6)
        return [p.detach() for p in trained.inner.params], trained.engine.get_epsilon(1e-5)

    (some, epsilon), (others, same) = run(Visitors(0.0)), run(None)
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))
    assert epsilon == same


def test_an_empty_batch_is_a_step_too(kit):
    visitors = Visitors()
    trained = kit.private(
        kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0, batch_size=1
    )
    trained.engine.plant(visitors)
    some = []
    train(
        trained,
        kit,
        40,
        between=lambda _: some.append(bool(trained.inner.yielded.piece.real.any())),
    )
    assert not all(some) and len(visitors.seen) == len(some) == 40


def test_an_unfinished_batch_has_none_of_them(kit):
    """An early break gives up what was added up; the step after it has them once."""
    visitors = Visitors()
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        max_grad_norm=0.3,
        noise_multiplier=1.0,
        batch_size=40,
        max_physical_batch=10,
    )
    trained.engine.plant(visitors)
    for x, y in itertools.islice(trained.loader, 2):
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    assert trained.engine.steps == 0 and visitors.moments == []
    train(trained, kit, 2)
    assert [m.step for m in visitors.moments] == [0, 1]


def test_they_join_a_batch_that_the_loader_did_not_yield(kit):
    """When it is whole is known at the step only."""
    visitors = Visitors(100.0)
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    trained.engine.plant(visitors)
    x, y = kit.vectors(8).tensors
    kit.mean_loss(trained.model(x), y).backward()
    assert visitors.moments == []
    trained.optimizer.step()
    assert visitors.moments[0].rate is None
    expected = [100 * added / visitors.moments[0].divisor for added in visitors.added[0]]
    kit.close(trained.grads, expected, 0.05)


def test_a_second_batch_before_the_step_does_not_bring_them_again(kit):
    visitors = Visitors()
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    trained.engine.plant(visitors)
    for x, y in itertools.islice(trained.loader, 3):
        kit.mean_loss(trained.model(x), y).backward()
    trained.optimizer.step()
    assert len(visitors.moments) == len(visitors.seen) == 1


def test_they_learn_what_a_trainer_clips(kit):
    visitors = Visitors()
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    trained.engine.plant(visitors)
    lengths = []

    def halve(model):
        lengths.append(math.hypot(*(float(p.grad.norm()) for p in model.parameters())))
        nn.utils.clip_grad_norm_(model.parameters(), lengths[-1] / 2)

    train(trained, kit, 3, between=halve)
    assert visitors.factors == pytest.approx([0.5] * 3, rel=1e-4)
    assert trained.engine.get_epsilon(1e-5) < math.inf


@pytest.mark.parametrize(
    ("grouping", "swings"),
    [
        (per_sample(), False),
        (micro_batches(3, slots="random"), True),
        (per_core(3, slots="fixed"), True),
        (by_key(lambda i: i % 4), True),
        (by_key(lambda i: i // 3, unit="user"), False),
        (per_core(3), False),
    ],
    ids=label,
)
def test_what_they_are_told_of_the_claim(kit, grouping, swings):
    visitors = Visitors()
    trained = kit.private(kit.Mlp(), kit.vectors(), grouping=grouping, max_grad_norm=0.3)
    trained.engine.plant(visitors)
    train(trained, kit, 1)
    (moment,) = visitors.moments
    assert (moment.swings, moment.claimed, moment.bound) == (swings, 0.3, 0.3)


def test_without_poisson_sampling_there_is_no_rate(kit):
    visitors = Visitors()
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, poisson_sampling=False)
    trained.engine.plant(visitors)
    train(trained, kit, 1)
    assert visitors.moments[0].rate is None


def test_a_sum_loss_is_not_divided(kit):
    visitors = Visitors()
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, reduction="sum")
    trained.engine.plant(visitors)
    train(trained, kit, 1)
    assert visitors.moments[0].divisor == 1


LIKE = torch.empty(0)


def in_force(weighting, layers=4):
    shapes = [torch.Size([3])] * layers
    return bound_in_force(weighting, weighting.init(shapes), layers, LIKE)


@pytest.mark.parametrize(
    ("weighting", "bound"),
    [
        (clip(0.3), 0.3),
        (normalize(0.1, radius=2.0), 2.0),
        (per_layer(clip(0.1)), 0.2),
        (quantile(0.5, bound=0.7), 0.7),
        (uniform(), None),
        (clip_to_min(), None),
    ],
    ids=label,
)
def test_the_bound_in_force_is_the_promised_one(weighting, bound):
    assert in_force(weighting) == (None if bound is None else pytest.approx(bound))


def test_the_bound_in_force_is_asked_of_the_weights_and_not_of_the_promise():
    promised = clip(0.3)
    unbounded = dataclasses.replace(promised, weigh=uniform().weigh)
    twice = dataclasses.replace(promised, weigh=clip(0.6).weigh)
    nothing = dataclasses.replace(promised, weigh=lambda s, state: (s.norms * math.nan, state))
    assert in_force(unbounded) is None
    assert in_force(twice) == pytest.approx(0.6)
    assert in_force(nothing) is None


def test_the_guarantee_tells_of_them_and_epsilon_does_not_change(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    assert "visitors" not in trained.engine.guarantee
    trained.engine.plant(Visitors())
    train(trained, kit, 1)
    told = trained.engine.guarantee
    assert told.endswith("; 3 visitors of an audit joined every step.") and "PRV" in told
    trained.engine.noise_multiplier = 0.0
    assert "No epsilon" in trained.engine.guarantee and "visitors" in trained.engine.guarantee


def test_when_they_cannot_join(kit):
    with pytest.raises(RuntimeError, match="make_private first"):
        PrivacyEngine().plant(Visitors())
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3)
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x), y).backward()
    with pytest.raises(RuntimeError, match="between backward"):
        trained.engine.plant(Visitors())
    trained.optimizer.step()
    trained.engine.plant(Visitors())
    with pytest.raises(RuntimeError, match="3 visitors were planted before"):
        trained.engine.plant(Visitors())


def test_over_ranks_they_are_refused(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3)
    trained.inner.ranks = SimpleNamespace(count=4)
    with pytest.raises(ValueError, match="over 4 ranks"):
        trained.engine.plant(Visitors())


def test_half_precision_is_refused(kit):
    model = kit.Mlp().bfloat16()
    engine = PrivacyEngine(seed=0)
    engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(kit.vectors(), batch_size=8),
        noise_multiplier=1.0,
        max_grad_norm=0.3,
    )
    with pytest.raises(ValueError, match="half precision"):
        engine.plant(Visitors())


def test_those_that_do_not_fit_are_not_planted(kit):
    class Large(Visitors):
        def fit(self, shapes):
            raise ValueError("too large")

    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3)
    with pytest.raises(ValueError, match="too large"):
        trained.engine.plant(Large())
    assert trained.inner.extras.groups is None


def test_another_training_starts_without_them(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3)
    trained.engine.plant(Visitors())
    trained.engine.close()
    model = kit.Mlp()
    trained.engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(kit.vectors(), batch_size=8),
        noise_multiplier=0.0,
        max_grad_norm=0.3,
    )
    assert trained.inner.extras.groups is None
