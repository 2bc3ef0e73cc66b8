"""The Grad Queue: its lemmas, and the engine against the equations, number by number."""

from __future__ import annotations

import copy
import itertools
import math
from collections import deque

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dpclip import (
    Checkpoints,
    PrivacyEngine,
    chain,
    check,
    clip,
    clip_to_min,
    clusters,
    dynamic,
    micro_batches,
    per_core,
    per_layer,
    per_sample,
    scarcity,
    uniform,
)
from dpclip.grad_queue import weights
from dpclip.refusals import check_rows
from dpclip.types import Stats, Weighting, WeightingFacts

GROUPINGS = [
    per_sample(),
    micro_batches(3),
    micro_batches(3, slots="random"),
    per_core(1),
    per_core(3, slots="fixed"),
    clusters(3, features="layers.1"),
    clusters(per=3, features="layers"),
]


def _label(value: object) -> str:
    return str(getattr(value, "label", value))


class Slow:
    """Equations of the paper, one number after the other, with Python's floats."""

    def __init__(self, rho: float = 3.0, length: int = 3) -> None:
        self.rho, self.queue = rho, deque[list[float]](maxlen=length)

    def boosted(self, g: float, last: list[float]) -> float:
        mu = sum(last) / len(last)
        sigma = math.sqrt(sum((q - mu) ** 2 for q in last) / len(last))
        r = abs(g - mu) / (sigma + 1e-12)
        return g * (min(r, self.rho) if r > 1 else max(r, 1 / self.rho))

    def update(self, means: list[list[float]], sizes: list[int]) -> list[float]:
        """g* of mean gradients of clusters; the batch mean joins the queue."""
        total, found, plain = sum(sizes), [], []
        for i in range(len(means[0])):
            each = [mean[i] for mean in means]
            plain.append(sum(n * g for n, g in zip(sizes, each, strict=True)) / total)
            if len(self.queue) == self.queue.maxlen:
                last = [q[i] for q in self.queue]
                each = [self.boosted(g, last) for g in each]
            found.append(sum(n * g for n, g in zip(sizes, each, strict=True)) / total)
        self.queue.append(plain)
        return found


def slow_update(trained, slow, x, y, slots):
    """The update of a batch with these slots, each cluster's mean gradient from autograd."""
    held = [(slots == s).nonzero()[:, 0] for s in slots.unique()]
    twin = trained.twin
    n = [len(i) if twin.reduction == "sum" else 1 for i in held]
    means = [
        (torch.cat([g.flatten() for g in twin.group(x[i], y[i], None)]) / k).tolist()
        for i, k in zip(held, n, strict=True)
    ]
    scale = len(x) if twin.reduction == "sum" else 1
    return torch.tensor(slow.update(means, [len(i) for i in held])) * scale


def flat(grads):
    return torch.cat([g.flatten() for g in grads])


def slots_now(trained):
    yielded = trained.inner.yielded
    return yielded.piece.slots if yielded.features is None else yielded.features._slots


def batches(loader, count):
    return itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), count)


# ---- the rule by itself ------------------------------------------------------------------------


def _threshold(length: int | None, n: int, beta: float = 0.9, rho: float = 3.0) -> float:
    """Smallest a for which, after n - 1 gradients of 1, a gradient -a turns the momentum round."""
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        a, momentum = (low + high) / 2, 0.0
        rule = uniform() if length is None else scarcity(rho, length)
        state = rule.init([torch.Size([1])])
        for g in [1.0] * (n - 1) + [-a]:
            update = g
            if length is not None:
                one = torch.ones(1)
                stats = Stats(
                    one, one[None], one, one > 0, 1.0, lambda _, g=g: torch.full((1, 1), g)
                )
                found, state = rule.weigh(stats, state)
                update, state = float(found), rule.finish(state, None)
            momentum = beta * momentum + update
        low, high = (a, high) if momentum > 0 else (low, a)
    return high


@pytest.mark.parametrize(
    ("length", "n", "wanted"),
    [(None, 3, 1.71), (None, 9, 5.1258), (None, 10, 5.5132), (3, 10, 0.90062)],
)
def test_lemmas(length, n, wanted):
    """How large the rare gradient must be: beta * beta_{N-1}, and beta * gamma0_{N-1} / rho."""
    assert _threshold(length, n) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize("rho", [1.0, 2.0, 3.0])
def test_weights_stay_in_their_interval(rho):
    rows = torch.randn(4, 500) * 10 ** torch.empty(500).uniform_(-9, 9)
    queue = torch.randn(3, 500) * 10 ** torch.empty(500).uniform_(-9, 9)
    queue[:, :50] = 0.0
    rows[:2, :50] = 0.0
    found = weights(rows.clone(), queue, rho)
    assert found.min() >= 1 / rho and found.max() <= rho
    if rho > 1:
        assert found.unique().numel() > 2


@pytest.mark.parametrize(("length", "wanted"), [(3, 2.27), (4, 2.16), (5, 2.09)])
def test_confound_on_independent_gradients(length, wanted):
    """The update grows by so much where nothing is rare; 3e5 draws have an error of 0.004."""
    draw = torch.Generator().manual_seed(1)
    queue = torch.randn(length, 300_000, generator=draw)
    g = torch.randn(1, 300_000, generator=draw)
    boosted = g * weights(g, queue, 3.0)
    assert float(boosted.square().mean().sqrt()) == pytest.approx(wanted, abs=0.02)


def test_the_queue_must_be_full_first(kit):
    """The first L updates are plain batch means, the next one is not."""
    trained = kit.private(kit.Mlp(), kit.vectors(), grouping=micro_batches(3), weighting=scarcity())
    for number, (x, y) in enumerate(batches(trained.loader, 4)):
        kit.mean_loss(trained.model(x), y).backward()
        plain = flat(trained.twin.group(x, y, None))
        close = torch.allclose(flat(trained.grads), plain, rtol=1e-9, atol=1e-15)
        assert close == (number < 3)
        trained.optimizer.step()
        trained.twin.follow(trained.model)


def test_scale_of_the_loss(kit):
    """A loss ten times as large gives ten times the update."""
    found = []
    for scale in (1.0, 10.0):
        torch.manual_seed(2)
        trained = kit.private(
            kit.Mlp(), kit.vectors(), grouping=micro_batches(3), weighting=scarcity(), lr=0.0
        )
        for x, y in batches(trained.loader, 6):
            (scale * kit.mean_loss(trained.model(x), y)).backward()
            found.append(flat(trained.grads))
            trained.optimizer.step()
    for once, ten in zip(found[:6], found[6:], strict=True):
        assert torch.allclose(10 * once, ten, rtol=1e-5, atol=0.0)


def test_dynamic_length_follows_the_loss():
    how = dynamic(shortest=2, longest=5, window=2)
    assert how.length([1.0]) == 2
    assert how.length([9, 8, 7, 6, 5, 4, 3, 2, 1]) == 5  # falling all along, bounded
    assert how.length([1, 2, 3, 4, 5, 6]) == 2  # rising
    assert how.length([1, 9, 8, 7, 6, 5]) == 3  # windows 11, 13, 15, 17, then 10
    assert how.length([9, 8, 7, 6, math.nan, 5]) == 2


def test_dynamic_length_in_training(kit):
    """With losses that say L = 2 it is the queue of two, and with others that of four."""
    how = {"grouping": micro_batches(3), "lr": 0.1}
    rule = scarcity(length=dynamic(shortest=2, longest=4, window=1))
    for losses, length in ((range(9), 2), (range(9, 0, -1), 4)):
        torch.manual_seed(0)
        one = kit.private(kit.Mlp(), kit.vectors(), weighting=rule, **how)
        torch.manual_seed(0)
        two = kit.private(kit.Mlp(), kit.vectors(), weighting=scarcity(length=length), **how)
        for number, loss in enumerate(losses):
            for each in (one, two):
                x, y = next(iter(each.loader))
                each.engine.observe(torch.tensor(float(loss)))
                kit.mean_loss(each.model(x), y).backward()
            # The walk needs a history: before, the queue is as short as it may be.
            same = torch.allclose(flat(one.grads), flat(two.grads), rtol=1e-12, atol=0)
            assert same or number < 5
            one.optimizer.step()
            two.optimizer.step()
            two.model.load_state_dict(one.model.state_dict())


def test_what_is_refused(kit):
    for wrong in (
        lambda: scarcity(rho=0.9),
        lambda: scarcity(rho=math.nan),
        lambda: scarcity(length=0),
        lambda: scarcity(length=3.0),
        lambda: scarcity(length=True),
        lambda: scarcity(eps=0.0),
        lambda: dynamic(shortest=4, longest=3),
        lambda: dynamic(window=0),
        lambda: dynamic(longest=4.5),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()
    with pytest.raises(ValueError, match="every number by itself already"):
        per_layer(scarcity())
    with pytest.raises(ValueError, match="Put it last"):
        chain(scarcity(), clip(1.0))
    with pytest.raises(ValueError, match="no group is bounded by itself"):
        kit.private(kit.Mlp(), kit.vectors(), weighting=scarcity(), noise_multiplier=1.0)
    with pytest.raises(ValueError, match="no weights that a bound could be tried on"):
        check(
            Weighting(
                "mine()",
                lambda _: {},
                lambda stats, state: (torch.zeros(1), state),
                lambda _: WeightingFacts(1.0, True, "I say so"),
                needs="rows",
            )
        )


def test_dynamic_length_without_losses(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=scarcity(length=dynamic()))
    x, y = next(iter(trained.loader))
    with pytest.raises(RuntimeError, match=r"engine\.observe\(loss\)"):
        kit.mean_loss(trained.model(x), y).backward()
    with pytest.raises(ValueError, match="expected one number"):
        trained.engine.observe(torch.zeros(2))


def test_over_ranks_that_are_groups():
    with pytest.raises(ValueError, match=r"per_core\(n\) for n virtual cores"):
        check_rows(per_core(), scarcity())
    check_rows(per_core(), clip(1.0))
    check_rows(per_core(2), scarcity())


def test_losses_reach_the_rule_that_reads_them(kit):
    """Also inside a chain; other rules ignore them."""
    rule = chain(clip(1.0), scarcity(length=dynamic()))
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=rule)
    for loss in (3.0, torch.tensor(2.0, requires_grad=True)):
        trained.engine.observe(loss)
    assert trained.inner.state["second.losses"].tolist() == [3.0, 2.0]
    trained.engine.weighting = clip(1.0)
    trained.engine.observe(1.0)
    assert not trained.inner.state


def test_no_claim(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=scarcity())
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert "earlier batches" in trained.engine.guarantee


# ---- the engine --------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("grouping", "how"),
    [
        pytest.param(grouping, how, id=f"{_label(grouping)}-{'-'.join(how) or 'fast'}")
        for grouping in GROUPINGS
        for how in ({}, {"memory": "low"}, {"loop": True})
        if grouping.features is None or "loop" not in how  # clusters need all features at once
    ],
)
def test_equals_the_equations(kit, grouping, how, reduction):
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        grouping=grouping,
        weighting=scarcity(),
        reduction=reduction,
        lr=0.05,
        **how,
    )
    slow = Slow()
    loss = kit.mean_loss if reduction == "mean" else kit.sum_loss
    for x, y in batches(trained.loader, 6):
        loss(trained.model(x), y).backward()
        wanted = slow_update(trained, slow, x, y, slots_now(trained))
        kit.close([flat(trained.grads)], [wanted], 1e-7)
        trained.optimizer.step()
        trained.twin.follow(trained.model)


@pytest.mark.parametrize("name", ["ConvNet", "Transformer"])
def test_equals_the_equations_on_other_layers(kit, name):
    data = {"ConvNet": kit.images, "Transformer": kit.texts}[name]()
    trained = kit.private(
        getattr(kit, name)(), data, grouping=micro_batches(3), weighting=scarcity(2.0, 2), lr=0.1
    )
    slow = Slow(2.0, 2)
    for x, y in batches(trained.loader, 4):
        kit.mean_loss(trained.model(x), y).backward()
        wanted = slow_update(trained, slow, x, y, slots_now(trained))
        kit.close([flat(trained.grads)], [wanted], 1e-6)
        trained.optimizer.step()
        trained.twin.follow(trained.model)


@pytest.mark.parametrize("rule", [clip(0.2), per_layer(clip(0.1)), clip_to_min()], ids=_label)
def test_after_another_rule(kit, rule):
    """chain(first, scarcity()): the groups are those that the first rule leaves."""
    trained = kit.private(
        kit.Mlp(), kit.vectors(), grouping=micro_batches(3), weighting=chain(rule, scarcity())
    )
    slow, twin = Slow(), trained.twin
    for x, y in batches(trained.loader, 5):
        kit.mean_loss(trained.model(x), y).backward()
        slots = slots_now(trained)
        held = [(slots == s).nonzero()[:, 0] for s in slots.unique()]
        rows = [twin.group(x[i], y[i], None) for i in held]
        layers = torch.tensor([[u.norm() for u in row] for row in rows]).T
        norms, sizes = layers.norm(dim=0), torch.tensor([len(i) for i in held])
        stats = Stats(norms, layers, sizes, norms.isfinite(), 1.0)
        left = rule.weigh(stats, rule.init([p.shape for p in twin.params]))[0]
        left = left.expand(len(twin.params), len(rows))
        means = [
            flat([w * u for w, u in zip(left[:, g], row, strict=True)]).tolist()
            for g, row in enumerate(rows)
        ]
        wanted = torch.tensor(slow.update(means, sizes.tolist()))
        kit.close([flat(trained.grads)], [wanted], 1e-7)
        trained.optimizer.step()
        trained.twin.follow(trained.model)


@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
        lambda params: torch.optim.Adam(params, lr=0.01),
    ],
    ids=["momentum", "adam"],
)
def test_one_cluster_with_an_optimizer(kit, make):
    """per_core(1) is the paper's k = 1; weights go where a loop over the equations takes them."""
    torch.manual_seed(0)
    model, data = kit.Mlp(), kit.vectors()
    slow_model = copy.deepcopy(model)
    optimizer, slow_optimizer = make(model.parameters()), make(slow_model.parameters())
    engine = PrivacyEngine(seed=0, measure=False)
    _, _, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=8),
        noise_multiplier=0.0,
        weighting=scarcity(),
        grouping=per_core(1),
        poisson_sampling=False,
    )
    slow, params = Slow(), list(slow_model.parameters())
    for x, y in batches(loader, 8):
        kit.mean_loss(model(x), y).backward()
        optimizer.step()
        mean = flat(torch.autograd.grad(kit.mean_loss(slow_model(x), y), params))
        update = torch.tensor(slow.update([mean.tolist()], [len(x)]))
        for param, part in zip(params, update.split([p.numel() for p in params]), strict=True):
            param.grad = part.view_as(param)
        slow_optimizer.step()
    kit.close([p.detach() for p in model.parameters()], [p.detach() for p in params], 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("cut", ["physical", "slices"])
@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(3), per_core(1)], ids=_label)
def test_in_several_parts(kit, grouping, cut, reduction):
    """Whole batches, physical batches of 3 and slices of 3 train alike, at the step."""
    found = []
    for parts in (False, True):
        torch.manual_seed(0)
        trained = kit.private(
            kit.Mlp(),
            kit.vectors(),
            grouping=grouping,
            weighting=scarcity(),
            lr=0.05,
            reduction=reduction,
            poisson_sampling=False,
            max_physical_batch=3 if parts and cut == "physical" else None,
        )
        loss = kit.mean_loss if reduction == "mean" else kit.sum_loss
        while trained.engine.steps < 5:
            for x, y in trained.loader:
                size = 3 if parts and cut == "slices" else len(x)
                for a, b in zip(x.split(size), y.split(size), strict=True):
                    loss(trained.model(a), b).backward()
                trained.optimizer.step()
        found.append([p.detach().clone() for p in trained.model.parameters()])
    kit.close(found[1], found[0], 1e-8)


def test_a_group_that_is_not_finite(kit):
    """It is left out of the update and of the queue."""
    data = kit.vectors(8)
    trained = kit.private(
        kit.Mlp(),
        data,
        grouping=micro_batches(2),
        weighting=scarcity(length=2),
        poisson_sampling=False,
        lr=0.0,
    )
    for _ in range(3):
        for x, y in trained.loader:
            x = x.clone()
            x[:2] = math.nan
            kit.mean_loss(trained.model(x), y).backward()
            held = [torch.tensor([i, i + 1]) for i in (2, 4, 6)]
            rows = torch.stack([flat(trained.twin.group(x[i], y[i], None)) for i in held])
            grads = flat(trained.grads)
            trained.optimizer.step()
        plain = 2 * rows.sum(0) / 8
        kit.close([trained.inner.state["queue.0"]], [plain], 1e-9)
        assert grads.isfinite().all()
    queue = torch.stack([plain, plain])
    kit.close([grads], [2 * (rows * weights(rows.clone(), queue, 3.0)).sum(0) / 8], 1e-6)
    assert trained.engine.diagnostics().invalid == 1
    assert math.isnan(trained.engine.diagnostics().fraction_clipped)


def test_an_empty_batch_joins_no_queue(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(4), batch_size=1, weighting=scarcity(length=2))
    steps = 0
    while steps < 3:
        for x, y in trained.loader:
            before = dict(trained.inner.state)
            real = bool(trained.inner.yielded.piece.real.any())
            kit.mean_loss(trained.model(x), y).backward()
            if not real:
                assert not flat(trained.grads).any()
            trained.optimizer.step()
            if not real:
                steps += 1
                after = trained.inner.state
                assert after.keys() == before.keys()
                assert all(after[name] is before[name] for name in before)


def test_a_batch_that_is_given_up_leaves_no_trace(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(24), batch_size=24, weighting=scarcity(), max_physical_batch=8
    )
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        break
    assert trained.inner.state.keys() == {"sum", "samples"}
    next(iter(trained.loader))
    assert not trained.inner.state


class _Run:
    """A training with clusters, a queue of dynamic length, and checkpoints."""

    def __init__(self, kit, folder) -> None:
        torch.manual_seed(5)
        self.kit, self.model, data = kit, kit.Mlp(), kit.vectors()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.engine = PrivacyEngine(seed=3, measure=False)
        _, _, self.loader = self.engine.make_private(
            module=self.model,
            optimizer=self.optimizer,
            data_loader=DataLoader(data, batch_size=8),
            noise_multiplier=0.0,
            weighting=scarcity(length=dynamic(2, 4, 2)),
            grouping=clusters(3, features="layers.0"),
        )
        self.checkpoints = Checkpoints(
            folder, engine=self.engine, module=self.model, optimizer=self.optimizer
        )

    def train(self, steps: int) -> list[torch.Tensor]:
        for x, y in batches(self.loader, steps):
            loss = self.kit.mean_loss(self.model(x), y)
            self.engine.observe(loss)
            loss.backward()
            self.optimizer.step()
        return [p.detach().clone() for p in self.model.parameters()]


def test_resume_is_exact(kit, tmp_path):
    whole = _Run(kit, tmp_path / "whole")
    wanted = whole.train(11)
    first = _Run(kit, tmp_path / "cut")
    first.train(6)
    first.checkpoints.save()
    first.checkpoints.close()
    again = _Run(kit, tmp_path / "cut")
    assert again.checkpoints.resume().steps == 6
    assert all(torch.equal(a, b) for a, b in zip(again.train(5), wanted, strict=True))
    assert {f"queue.{i}" for i in range(4)} | {"losses"} == again.engine.state_dict()[
        "weighting"
    ].keys()
    for run in (whole, again):
        run.checkpoints.close()


def test_state_dict_is_not_written_to_later(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=scarcity())

    def go(steps):
        for x, y in batches(trained.loader, steps):
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()

    go(4)
    kept = trained.engine.state_dict()["weighting"]
    before = {name: value.clone() for name, value in kept.items()}
    go(3)
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert len(before) == 3
    assert isinstance(trained.model, nn.Module)
