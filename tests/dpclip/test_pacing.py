"""Batches paced by the angle of their gradient: the rule, a training, and what it spends."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dpclip import (
    Checkpoints,
    PrivacyEngine,
    by_angle,
    chain,
    clip,
    clip_to_min,
    micro_batches,
    normalize,
    per_core,
    per_layer,
    per_sample,
    quantile,
    scarcity,
    step_budget,
    uniform,
)
from dpclip.pacer import Paced
from dpclip.refusals import check_pacing

TABLE = [51.52, 30.37, 27.42, 22.61, 20.87, 19.80, 19.59, 18.92, 19.23]


# ---- the rule by itself ------------------------------------------------------------------------


def test_table_1_of_the_paper_triggers_no_step():
    rule = by_angle()
    assert not any(rule.decide(TABLE[:k]) for k in range(len(TABLE) + 1))
    assert rule.decide([*TABLE, 1.1 * 18.92 + 1e-9])  # a fluctuation
    assert not rule.decide([*TABLE, 1.1 * 18.92 - 1e-6])
    assert rule.decide([*TABLE, 19.0, 18.95])  # the third that is no new minimum
    assert not rule.decide([*TABLE, 19.0, 18.91])


def test_decisions():
    assert not by_angle().decide([])
    assert not by_angle(alpha=1.0).decide([40.0, 30.0])
    assert by_angle(alpha=1.0).decide([40.0, 40.0])
    assert by_angle(patience=1).decide([40.0, 40.1])
    assert not by_angle(patience=2).decide([40.0, 40.1, 39.0])
    assert by_angle(patience=2).decide([40.0, 40.1, 39.0, 39.1])  # the count is cumulative
    assert by_angle(alpha=1.5).discards(60.1) and not by_angle(alpha=1.5).discards(59.9)


def test_mean_size_grows_with_alpha():
    draw = np.random.default_rng(0)
    walks = draw.uniform(5, 50, (200, 60))
    rules = [by_angle(alpha=a, patience=p) for p in (3, 99) for a in (1.0, 1.1, 1.3, 2.0, 5.0)]
    sizes = [
        [next((k for k in range(1, 61) if rule.decide(walk[:k])), 61) for walk in walks]
        for rule in rules
    ]
    for some in (sizes[:5], sizes[5:]):
        for smaller, larger in itertools.pairwise(some):
            assert all(a <= b for a, b in zip(smaller, larger, strict=True))
        assert np.mean(some[0]) < np.mean(some[-1])


def test_what_is_refused(kit):
    some = ({"alpha": 0.9}, {"alpha": math.nan}, {"patience": 0}, {"cap": 0})
    for wrong in (*some, {"patience": 1.5}, {"patience": math.nan}, {"patience": True}):
        with pytest.raises(ValueError, match="expected"):
            by_angle(**wrong)
    for angles in ([math.nan], [181.0], [-1.0]):
        with pytest.raises(ValueError, match="a_2 = "):
            by_angle().decide(angles)
    how = {"weighting": uniform(), "pacing": by_angle(monitor="heads")}
    with pytest.raises(ValueError, match="no trainable parameter has a name that begins so"):
        kit.private(kit.Mlp(), kit.vectors(), **how)
    with pytest.raises(RuntimeError, match="Every step is one batch"):
        kit.private(kit.Mlp(), kit.vectors()).engine.pace  # noqa: B018


# ---- in a training -----------------------------------------------------------------------------


def _divisor(grouping, weighting, rows: int) -> float:
    """D of a batch that did not come by Poisson sampling: its groups, or samples for a queue."""
    if weighting.needs == "rows" or grouping.kind == "sample":
        return rows
    return {"micro_batches(3)": math.ceil(rows / 3), "per_core(1)": 1, "per_core(2)": 2}[
        grouping.label
    ]


@pytest.mark.parametrize(
    ("grouping", "weighting", "counts"),
    [
        (per_core(1), uniform(), False),
        (per_sample(), scarcity(), False),
        (per_sample(), clip(1.0), True),
    ],
    ids=["groups by position", "a queue", "an expected number"],
)
def test_empty_batches(kit, grouping, weighting, counts):
    """They count in the mean where D is an expected number, and not where it is an actual one."""
    how = {"weighting": weighting, "grouping": grouping, "batch_size": 1, "lr": 0.0}
    data = kit.vectors()
    plain = kit.private(kit.Mlp(), data, **how)
    paced = kit.private(copy.deepcopy(plain.twin.model), data, pacing=by_angle(cap=8), **how)
    sizes, under_way, empty = [], [], 0
    for (x, y), (again, _) in zip(plain.loader, paced.loader, strict=True):
        assert torch.equal(x, again)
        sizes.append(int(plain.inner.yielded.piece.real.sum()))  # beside padding
        for each in (plain, paced):
            each.optimizer.zero_grad()
            kit.mean_loss(each.model(x), y).backward()
        if sizes[-1]:
            d = _divisor(grouping, weighting, sizes[-1]) if not counts else 1.0
            under_way.append((d, [p.grad * d for p in plain.model.parameters()]))
        empty += not sizes[-1]
        complete = len(paced.engine.pace.complete)
        for each in (plain, paced):
            each.optimizer.step()
        if len(paced.engine.pace.complete) > complete:
            last = paced.engine.pace.complete[-1]
            assert len(last.angles) == max(0, len(under_way) - 1)
            if paced.engine.updated and under_way:
                whole = sum(d for d, _ in under_way) + counts * empty
                sums = [sum(parts) for parts in zip(*(g for _, g in under_way), strict=True)]
                kit.close(
                    [p.grad for p in paced.model.parameters()], [g / whole for g in sums], 1e-9
                )
            under_way, empty = [], 0
    assert sizes.count(0) >= 5 and len(paced.engine.pace.complete) >= 5
    assert paced.engine.pace.samples == len(sizes)  # each counts as its expected sample


def _slow(model, optimizer, batches, rows, alpha, patience, cap):
    """The accumulation loop of the paper, with lists; angles over the whole model."""
    params, sizes, all_angles = list(model.parameters()), [], []
    total, samples, angles, low, worse = None, 0, [], math.inf, 0
    for x, y in batches:
        g = rows(model, x, y) * len(x)
        if total is None:
            total, samples = g, len(x)
        else:
            new, samples = total + g, samples + len(x)
            a = math.degrees(math.acos(float(total @ new / (total.norm() * new.norm()))))
            total = new
            angles.append(a)
        stop = cap is not None and samples >= cap
        if angles:
            stop = stop or angles[-1] >= alpha * low
            if angles[-1] >= low:
                worse += 1
            stop = stop or worse >= patience
            low = min(low, angles[-1])
        if not stop:
            continue
        discard = bool(angles) and angles[-1] > 90 / alpha
        if not discard:
            parts = (total / samples).split([p.numel() for p in params])
            for p, part in zip(params, parts, strict=True):
                p.grad = part.view_as(p).clone()
            optimizer.step()
        sizes.append((samples, discard))
        all_angles.append(angles)
        total, samples, angles, low, worse = None, 0, [], math.inf, 0
    return sizes, all_angles


@pytest.mark.parametrize("physical", [None, 3])
@pytest.mark.parametrize("alpha", [1.1, 1.6])
@pytest.mark.parametrize("adam", [False, True], ids=["momentum", "adam"])
@pytest.mark.parametrize("rule", [uniform(), clip(0.2)], ids=["uniform", "clip"])
def test_equals_the_loop(kit, rule, adam, alpha, physical):
    """Ragged batches of 7, 7, 7, 3; weights, sizes, angles and what is thrown away."""

    def make(params):
        if adam:
            return torch.optim.Adam(params, lr=0.1)
        return torch.optim.SGD(params, lr=0.3, momentum=0.9, weight_decay=0.01)

    model, data = kit.Mlp(), kit.vectors(24)
    twin = copy.deepcopy(model)
    optimizer = make(model.parameters())
    engine = PrivacyEngine(seed=0, measure=False)
    _, _, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=7),
        noise_multiplier=0.0,
        weighting=rule,
        pacing=by_angle(alpha, patience=2, cap=60, monitor=""),
        poisson_sampling=False,
        max_physical_batch=physical,
    )
    updated = []
    for _ in range(20):
        for x, y in loader:
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.zero_grad()
            kit.mean_loss(model(x), y).backward()
            optimizer.step()
            after = list(model.parameters())
            moved = not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            assert moved == engine.updated
            updated.append(moved)
    groups = kit.Twin(twin, rule)

    def rows(_model, x, y):
        each = [
            torch.cat([g.flatten() for g in groups.group(x[[i]], y[[i]], None)])
            for i in range(len(x))
        ]
        bound = 0.2 if rule.label == "clip(0.2)" else math.inf
        return sum(u * min(1.0, bound / float(u.norm())) for u in each) / len(x)

    again = itertools.chain.from_iterable([DataLoader(data, batch_size=7)] * 20)
    sizes, angles = _slow(twin, make(twin.parameters()), again, rows, alpha, 2, 60)
    pace = engine.pace
    assert [(p.samples, p.discarded) for p in pace.complete] == sizes
    for p, wanted in zip(pace.complete, angles, strict=True):
        assert list(p.angles) == pytest.approx(wanted, abs=1e-6)
    kit.close(
        [p.detach() for p in model.parameters()], [p.detach() for p in twin.parameters()], 1e-8
    )
    assert sum(updated) == pace.updates == sum(not gone for _, gone in sizes) > 3
    assert len({size for size, _ in sizes}) > 1
    if alpha == 1.6 and rule.label == "uniform()":
        assert any(gone for _, gone in sizes)


def test_a_sum_that_is_thrown_away_changes_nothing(kit):
    """Two opposite batches turn the sum by 180 degrees: weights and moments stay as they are."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    x = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    engine = PrivacyEngine(seed=0)
    _, _, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(torch.utils.data.TensorDataset(x), batch_size=1),
        noise_multiplier=0.0,
        weighting=uniform(),
        pacing=by_angle(cap=2),
        poisson_sampling=False,
    )
    seen = []
    for _ in range(2):
        before = model.weight.detach().clone(), copy.deepcopy(optimizer.state_dict())
        for (row,) in loader:
            model(row).sum().backward()
            optimizer.step()
            seen.append(engine.updated)
        assert torch.equal(model.weight, before[0])
        assert optimizer.state_dict()["state"] == before[1]["state"] == {}
    assert seen == [False] * 4
    assert engine.pace.complete == (Paced(2.0, (180.0,), "weight", True),) * 2
    assert engine.pace.updates == 0 and engine.pace.samples == 4
    with pytest.raises(RuntimeError, match="has not updated the weights yet"):
        engine.doctor()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "grouping", [per_sample(), micro_batches(3), per_core(2)], ids=lambda g: g.label
)
@pytest.mark.parametrize(
    "weighting",
    [
        uniform(),
        clip(0.2),
        clip_to_min(),
        normalize(0.1, radius=0.5),
        per_layer(clip(0.1)),
        quantile(0.5, count_noise=0.1),
        scarcity(length=1),
        chain(clip(0.2), scarcity(length=2)),
    ],
    ids=lambda rule: rule.label,
)
def test_every_weighting_joins_in(kit, weighting, grouping, reduction):
    """An update is the mean, by D, of what the steps would have been; or their sum."""
    how = {"weighting": weighting, "grouping": grouping, "reduction": reduction, "lr": 0.0}
    how |= {"poisson_sampling": False, "batch_size": 7}  # ragged: 7, 7, 7, 3
    data = kit.vectors(24)
    plain = kit.private(kit.Mlp(), data, **how)
    paced = kit.private(copy.deepcopy(plain.twin.model), data, pacing=by_angle(cap=20), **how)
    loss = kit.mean_loss if reduction == "mean" else kit.sum_loss
    compared, under_way = 0, []
    for _ in range(5):
        for (x, y), (again, _) in zip(plain.loader, paced.loader, strict=True):
            assert torch.equal(x, again)
            for each in (plain, paced):
                each.optimizer.zero_grad()
                loss(each.model(x), y).backward()
            plain_grads = [p.grad.clone() for p in plain.model.parameters()]
            under_way.append((plain_grads, _divisor(grouping, weighting, len(x))))
            complete = len(paced.engine.pace.complete)
            for each in (plain, paced):
                each.optimizer.step()
            if len(paced.engine.pace.complete) == complete:
                assert not paced.engine.updated
                continue
            if paced.engine.updated:
                d = [d if reduction == "mean" else 1.0 for _, d in under_way]
                whole = sum(d) if reduction == "mean" else 1.0
                wanted = [
                    sum(g * by for g, by in zip(grads, d, strict=True)) / whole
                    for grads in zip(*(grads for grads, _ in under_way), strict=True)
                ]
                kit.close([p.grad for p in paced.model.parameters()], wanted, 1e-9)
                compared += 1
            under_way = []
    assert compared >= 3


def test_batches_of_another_loader(kit):
    """Their samples are counted, also where the loader that was made private draws by chance."""
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=uniform(), pacing=by_angle(cap=9))
    for rows in (4, 5, 4, 5):
        x, y = torch.randn(rows, 6), torch.zeros(rows, dtype=torch.int64)
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    assert trained.engine.pace.sizes == [9.0, 9.0]


def test_updated_without_pacing(kit):
    """A part of a batch is no update."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(24),
        weighting=uniform(),
        max_physical_batch=3,
        poisson_sampling=False,
    )
    found = []
    assert not trained.engine.updated
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        found.append(trained.engine.updated)
    assert found == [False, False, True] * 3


class _Witness:
    """Groups of an audit that add one, and keep what they see released."""

    label = "a witness"

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.seen: list[float] = []

    def fit(self, shapes):
        pass

    def join(self, grads, moment):
        self.steps.append(moment.step)
        for grad in grads:
            grad += 1 / moment.divisor

    def shrunk(self, factor):
        raise AssertionError

    def released(self, grads):
        self.seen.append(float(grads[0].mean()))


def test_groups_of_an_audit_join_every_increment(kit):
    """And see each released, not the mean that becomes an update."""
    trained = kit.private(
        nn.Linear(6, 5), kit.vectors(), weighting=clip(1e-9), lr=1.0, pacing=by_angle(cap=16)
    )
    before = trained.model.weight.detach().clone()
    witness = _Witness()
    trained.engine.plant(witness)
    for x, y in itertools.islice(trained.loader, 4):
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    assert witness.steps == [0, 1, 2, 3]
    assert witness.seen == pytest.approx([1 / 8] * 4, abs=1e-6)
    kit.close([trained.model.weight.detach()], [before - 2 / 8], 1e-6)


def test_over_ranks(kit):
    with pytest.raises(ValueError, match="over several ranks is not supported"):
        check_pacing(by_angle(), several=True)
    check_pacing(by_angle(), several=False)
    check_pacing(None, several=True)


# ---- noise and its price -----------------------------------------------------------------------


def test_noise_of_the_mean(kit):
    """The mean of k increments has noise of std sigma C / (D sqrt(k)), D = q N."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(20_000))

        def forward(self, x):
            return x * self.weight.sum() * 0

    model = Flat()
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = PrivacyEngine(seed=1)
    _, _, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(torch.utils.data.TensorDataset(torch.ones(40, 1)), batch_size=10),
        noise_multiplier=2.0,
        max_grad_norm=0.5,
        pacing=by_angle(cap=40),
    )
    for (x,) in loader:
        model(x).sum().backward()
        optimizer.step()
    assert engine.pace.sizes == [40.0] and engine.steps == 4
    std = 2.0 * 0.5 / 10 / math.sqrt(4)
    assert float((model.weight - before).std().detach()) == pytest.approx(std, rel=0.03)


def test_epsilon_is_that_of_the_increments(kit):
    """Those of sums that are thrown away, too, and of the one that is under way."""
    how = {"noise_multiplier": 1.0, "max_grad_norm": 0.5}
    rule = by_angle(alpha=10.0, patience=1)  # throws away what turns by more than 9 degrees
    paced = kit.private(kit.Mlp(), kit.vectors(), pacing=rule, **how)
    plain = kit.private(kit.Mlp(), kit.vectors(), **how)
    for each in (paced, plain):
        for _ in range(5):
            for x, y in each.loader:
                kit.mean_loss(each.model(x), y).backward()
                each.optimizer.step()
    pace = paced.engine.pace
    assert any(p.discarded for p in pace.complete) and pace.updates < 25 == paced.engine.steps
    assert pace.samples == pytest.approx(25 * 8)  # expected ones: the actual are not public
    assert paced.engine.get_epsilon(1e-5) == plain.engine.get_epsilon(1e-5) < math.inf
    assert "by_angle(10, patience=1) reads what was released only" in paced.engine.guarantee


def test_a_budget_stops_the_increments(kit):
    limit = step_budget(8.0, 1e-5, noise_multiplier=1.0, sample_rate=0.2)
    model, data = kit.Mlp(), kit.vectors()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counts = []
    for pacing in (None, by_angle()):
        engine = PrivacyEngine(seed=1, budget=limit)
        _, _, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(data, batch_size=8),
            noise_multiplier=1.0,
            max_grad_norm=0.5,
            pacing=pacing,
        )
        for _ in range(10):
            for x, y in loader:
                kit.mean_loss(model(x), y).backward()
                optimizer.step()
        counts.append(engine.steps)
        engine.close()
    assert counts[0] == counts[1] > 0


class _Run:
    """A paced training with noise, and checkpoints."""

    def __init__(self, kit, folder) -> None:
        torch.manual_seed(5)
        self.kit, self.model, data = kit, kit.Mlp(), kit.vectors()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.engine = PrivacyEngine(seed=3, measure=False)
        _, _, self.loader = self.engine.make_private(
            module=self.model,
            optimizer=self.optimizer,
            data_loader=DataLoader(data, batch_size=8),
            noise_multiplier=0.3,
            max_grad_norm=1.0,
            pacing=by_angle(patience=2),
        )
        self.checkpoints = Checkpoints(
            folder, engine=self.engine, module=self.model, optimizer=self.optimizer
        )

    def train(self, steps: int) -> list[torch.Tensor]:
        every = itertools.chain.from_iterable(itertools.repeat(self.loader))
        for x, y in itertools.islice(every, steps):
            self.kit.mean_loss(self.model(x), y).backward()
            self.optimizer.step()
        return [p.detach().clone() for p in self.model.parameters()]


@pytest.mark.parametrize("at", [7, 8, 9])
def test_resume_is_exact(kit, tmp_path, at):
    whole = _Run(kit, tmp_path / "whole")
    wanted = whole.train(25)
    first = _Run(kit, tmp_path / "cut")
    first.train(at)
    first.checkpoints.save()
    first.checkpoints.close()
    again = _Run(kit, tmp_path / "cut")
    assert again.checkpoints.resume().steps == at
    assert again.engine.pace == first.engine.pace
    assert all(torch.equal(a, b) for a, b in zip(again.train(25 - at), wanted, strict=True))
    assert again.engine.pace == whole.engine.pace
    rewards = [run.engine.state_dict()["pacing"]["rewards"] for run in (again, whole)]
    assert rewards[0] == rewards[1]
    assert again.engine.get_epsilon(1e-5) == whole.engine.get_epsilon(1e-5)
    for run in (whole, again):
        run.checkpoints.close()


def test_states_of_other_pacings_are_refused(kit):
    how = {"noise_multiplier": 1.0, "max_grad_norm": 0.5}
    paced = kit.private(kit.Mlp(), kit.vectors(), pacing=by_angle(), **how).engine
    plain = kit.private(kit.Mlp(), kit.vectors(), **how).engine
    with pytest.raises(ValueError, match=r"with pacing, this one is another"):
        plain.load_state_dict(paced.state_dict())
    with pytest.raises(ValueError, match=r"without pacing, this one is another"):
        paced.load_state_dict(plain.state_dict())
    other = kit.private(kit.ConvNet(), kit.images(), pacing=by_angle(), **how).engine
    with pytest.raises(ValueError, match="angles of the layers"):
        other.load_state_dict(paced.state_dict())


def test_a_state_that_is_refused_changes_nothing(kit):
    how = {"noise_multiplier": 1.0, "max_grad_norm": 0.5}
    first, second = (
        kit.private(kit.Mlp(), kit.vectors(), pacing=by_angle(monitor=name), **how).engine
        for name in ("layers.0", "layers.2")
    )
    run = kit.private(kit.Mlp(), kit.vectors(), pacing=by_angle(monitor="layers.0"), **how)
    for x, y in run.loader:
        kit.mean_loss(run.model(x), y).backward()
        run.optimizer.step()
    with pytest.raises(ValueError, match="angles of the layers"):
        second.load_state_dict(run.engine.state_dict())
    assert second.steps == 0 and second.pace.samples == 0
    first.load_state_dict(run.engine.state_dict())
    assert first.pace == run.engine.pace and first.steps == 5


def test_schedule_by_update(kit):
    """The lines of the docstring: one step of the schedule for each update."""
    trained = kit.private(
        kit.Mlp(), kit.vectors(), weighting=uniform(), pacing=by_angle(cap=16), batch_size=4
    )
    schedule = torch.optim.lr_scheduler.StepLR(trained.optimizer, 1, gamma=0.5)
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        if trained.engine.updated:
            schedule.step()
    assert trained.optimizer.param_groups[0]["lr"] == 0.5 * 0.5**trained.engine.pace.updates
    assert trained.engine.pace.updates >= 2


@pytest.mark.parametrize("poisson", [True, False])
def test_schedule_by_sample(kit, poisson):
    """The other lines of the docstring: what is left when the rate has reached zero is nothing."""
    epochs, n = 3, 40
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(n),
        weighting=uniform(),
        pacing=by_angle(),
        batch_size=15,
        poisson_sampling=poisson,
    )
    end = epochs * len(trained.loader) * 15 if poisson else epochs * n
    schedule = torch.optim.lr_scheduler.LambdaLR(
        trained.optimizer, lambda _: 1 - trained.engine.pace.samples / end
    )
    rates = []
    for _ in range(epochs):
        for x, y in trained.loader:
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()
            schedule.step()
            rates += schedule.get_last_lr()
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12) and rates[-2] > 0
