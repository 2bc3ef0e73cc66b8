"""Each known defect of Opacus 1.6.0 is none of ours.

Where few lines are enough, a test also shows that Opacus has the defect, so that it documents the
difference. If such a line fails with a later Opacus, the defect was repaired: delete the line.
"""

from __future__ import annotations

import math
import warnings

import opacus
import pytest
import torch
import torch.nn.functional as F
from opacus.schedulers import ExponentialGradClip
from opacus.utils.adaptive_clipping.adaptive_clipping_utils import PrivacyEngineAdaptiveClipping
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset, default_collate

from dpclip import PrivacyEngine, clip, clip_to_min, micro_batches, quantile


@pytest.fixture(autouse=True)
def _opacus_warns():
    """Of two things that have nothing to do with these tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Secure RNG turned off")
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield


class Sum(nn.Module):
    """A loss whose gradient with respect to a linear layer's weight is the record."""

    reduction = "mean"

    def forward(self, out, _y):
        return out[:, 0] if self.reduction == "none" else out[:, 0].mean()


def theirs(model, x, mode="ghost", engine=None, loss=None, **more):
    """Opacus' (model, optimizer, criterion or None, loader) with C = 1, without sampling."""
    loader = DataLoader(TensorDataset(x, torch.arange(len(x)) % 2), batch_size=len(x))
    given = {"noise_multiplier": 0.0, "max_grad_norm": 1.0, "poisson_sampling": False} | more
    made = (engine or opacus.PrivacyEngine()).make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        criterion=loss or nn.CrossEntropyLoss(),
        data_loader=loader,
        grad_sample_mode=mode,
        **given,
    )
    return (*made[:2], made[2] if len(made) == 4 else None, made[-1])


def one_record(length, n=32):
    """Records [n, 3], all of them short but the first."""
    x = torch.full((n, 3), 0.1)
    x[0] = length / math.sqrt(3)
    return x


def one_output():
    return nn.Linear(3, 1, bias=False)


# ---- clipping ----------------------------------------------------------------------------------


def test_adaptive_clipping_clips(kit):
    """Opacus' ghost engine for adaptive clipping asks for the mean loss where it needs the losses.

    Clipping factors are multiplied with the mean then, and one example moved the sum by 2408 at
    C = 1. Here a record moves it by at most the bound of that step.
    """
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        weighting=quantile(0.3, bound=1.0, rate=1.0, count_noise=0.1),
        lr=0.0,
    )
    bounds = []
    for x, y in trained.loader:
        bounds.append(float(trained.inner.state["bound"]))
        (1e4 * kit.mean_loss(trained.model(x), y)).backward()
        trained.optimizer.step()
        seen = trained.engine.diagnostics()
        assert (seen.norms * seen.weights).max() <= bounds[-1] * (1 + 1e-6)
        assert seen.norms.min() > bounds[-1]
    assert len(set(bounds)) == len(bounds)

    engine = PrivacyEngineAdaptiveClipping()
    model, optimizer, loss, loader = theirs(
        one_output(), one_record(2500.0), engine=engine, loss=Sum()
    )
    for x, y in loader:
        loss(model(x), y).backward()
        optimizer.step()
    assert 32 * torch.cat([p.grad for p in model.parameters()]).norm() > 2400.0


def test_a_schedule_of_the_bound_reaches_clipping_and_noise(kit):
    """Opacus' schedulers change C for the noise alone: ghost clipping keeps the old one."""
    trained = kit.private(
        nn.Linear(6, 300),
        TensorDataset(100 * torch.randn(40, 6), torch.randint(300, (40,))),
        max_grad_norm=1.0,
        noise_multiplier=1.0,
        lr=0.0,
    )
    c = 1.0
    for x, y in trained.loader:
        trained.engine.weighting = clip(c)
        kit.mean_loss(trained.model(x), y).backward()
        before = trained.grads
        trained.optimizer.step()
        rows = trained.engine.diagnostics()
        assert torch.allclose(rows.norms * rows.weights, torch.full_like(rows.norms, c))
        noise = torch.cat([(a - b).flatten() for a, b in zip(trained.grads, before, strict=True)])
        std = c / trained.inner.yielded.divisor.groups
        # Chi-square with 2100 degrees of freedom, at 4.5 standard errors.
        assert abs(float((noise / std).square().mean()) - 1) < 4.5 * math.sqrt(2 / len(noise))
        c *= 0.1
    assert 0 < trained.engine.get_epsilon(1e-5) < math.inf

    model, optimizer, _, _ = theirs(one_output(), one_record(50.0), loss=Sum())
    ExponentialGradClip(optimizer, gamma=0.1).step()
    assert optimizer.max_grad_norm == pytest.approx(0.1) and model.max_grad_norm == 1.0


def test_a_schedule_of_the_noise_is_charged(kit):
    """Each step at the multiplier that it used."""
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=1.0, noise_multiplier=2.0)
    for step, (x, y) in enumerate(trained.loader):
        trained.engine.noise_multiplier = 2.0 + step
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    charged = trained.inner.mechanism.ledger.history
    assert [(sigma, steps) for sigma, _, steps in charged] == [(2.0 + i, 1) for i in range(5)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_invalid_record_counts_for_nothing(kit, bad):
    """In Opacus one NaN makes the whole sum NaN."""
    data = kit.vectors()
    data.tensors[0][3] = bad
    trained = kit.private(kit.Mlp(), data, max_grad_norm=1.0, batch_size=40, lr=0.0)
    trained.twin.state = {}
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        good = x.isfinite().all(1)
        public = trained.inner.yielded.divisor
        wanted = trained.twin.update(x[good], y[good], torch.arange(39), public)
        kit.close(trained.grads, wanted)
        trained.optimizer.step()
    assert trained.engine.diagnostics().invalid == 1

    for mode in ("hooks", "ghost"):
        model, optimizer, loss, loader = theirs(nn.Linear(3, 2), one_record(bad), mode)
        for x, y in loader:
            (loss or F.cross_entropy)(model(x), y).backward()
            optimizer.step()
        assert all(p.grad.isnan().all() for p in model.parameters())


# ---- several backward passes, physical batches, steps ------------------------------------------


@pytest.mark.parametrize("rule", [clip(0.2), clip_to_min()], ids=lambda r: r.label)
def test_two_backward_passes_count_both(kit, rule):
    """A ghost backward of Opacus zeroes what an earlier one has left."""
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=rule)
    x, y = next(iter(trained.loader))
    wanted = trained.expected(x, y)
    for a, b in zip(x.split(4), y.split(4), strict=True):
        kit.mean_loss(trained.model(a), b).backward()
    kit.close(trained.grads, wanted)

    model, _, loss, loader = theirs(nn.Linear(3, 2), torch.randn(8, 3))
    x, y = next(iter(loader))
    sums = []
    for parts in ((x[:4], x[4:]), (x[4:],)):
        for part in parts:
            loss(model(part), y[: len(part)]).backward()
        sums.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*sums, strict=True))


def test_an_early_break_leaves_nothing_in_a_queue(kit):
    """Opacus' queue of skipped steps outlives the epoch: noise then comes after other rows.

    Here every logical batch gets its noise once, after its last piece.
    """
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        max_grad_norm=0.3,
        noise_multiplier=1.0,
        grouping=micro_batches(2, slots="random"),
        max_physical_batch=3,
    )
    for _ in range(2):
        for x, y in trained.loader:
            assert trained.inner.yielded.piece.first and not trained.inner.yielded.piece.last
            kit.mean_loss(trained.model(x), y).backward()
            break
    steps = 0
    for x, y in trained.loader:
        before = [p.detach().clone() for p in trained.model.parameters()]
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        last = trained.inner.yielded.piece.last
        steps += last
        groups = trained.inner.yielded.piece.logical.groups
        assert not last or len(trained.engine.diagnostics().norms) == groups
        after = trained.model.parameters()
        assert last != all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trained.engine.steps == steps == 5
    assert trained.inner.mechanism.ledger.history[0][2] == 5

    model, optimizer, _, loader = theirs(nn.Linear(3, 2), torch.randn(8, 3), "hooks")
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=4, optimizer=optimizer
    ) as pieces:
        next(iter(pieces))
        for x, y in pieces:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert optimizer._is_last_step_skipped  # of the last piece: no noise for this logical batch


def test_empty_batch_adds_no_record(kit):
    """Opacus gives an empty tensor, on which many losses fail, or with rand_on_empty random data.

    The padding row of an empty batch has no influence here, whatever the record is.
    """
    grads = []
    for value in (0.0, math.nan, 1e3):
        data = TensorDataset(torch.full((50, 6), value), torch.zeros(50, dtype=torch.int64))
        torch.manual_seed(0)
        trained = kit.private(
            kit.Mlp(), data, batch_size=1, max_grad_norm=1.0, noise_multiplier=1.0, lr=0.0
        )
        for x, y in trained.loader:
            trained.optimizer.zero_grad()
            F.cross_entropy(trained.model(x), y).backward()
            empty = not trained.inner.yielded.piece.real.any()
            if empty:
                assert not any(g.any() for g in trained.grads)
            taken = trained.engine.steps
            trained.optimizer.step()
            assert trained.engine.steps == taken + 1
            if empty:
                grads.append(torch.cat([g.flatten() for g in trained.grads]))
                break
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])
    assert grads[0].std() == pytest.approx(1.0, rel=0.4)  # D = 1, C = 1, sigma = 1

    collate = opacus.data_loader.CollateFnWithEmpty(default_collate, rand_on_empty=True)
    collate([(torch.ones(3), 1)])
    assert len(collate([])[0]) == 1


def test_step_hooks_and_schedulers_coexist(kit):
    """Opacus' attach_step_hook has one slot: a second hook ends the accounting silently."""
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(trained.optimizer, 1, 0.5)
    calls = []
    trained.optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    trained.optimizer.register_step_post_hook(lambda *_: calls.append(2))
    for x, y in trained.loader:
        trained.optimizer.zero_grad()
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        schedule.step()
    assert calls == [1, 2] * 5 and trained.engine.steps == 5
    assert trained.optimizer.param_groups[0]["lr"] == 0.5**6
    assert trained.inner.mechanism.ledger.history[0][2] == 5

    engine = opacus.PrivacyEngine()
    model, optimizer, _, loader = theirs(
        nn.Linear(3, 2), torch.randn(8, 3), "hooks", engine, noise_multiplier=1.0
    )
    optimizer.attach_step_hook(lambda _: None)
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert engine.accountant.history == []


def test_step_without_backward_charges_nothing(kit):
    """No gradient, no noise, no step."""
    trained = kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0)
    before = [p.detach().clone() for p in trained.model.parameters()]
    trained.optimizer.step()
    assert trained.engine.steps == 0 and not trained.inner.mechanism.ledger.history
    assert all(torch.equal(a, b) for a, b in zip(before, trained.model.parameters(), strict=True))


def test_misspelt_keywords_raise(kit):
    """Opacus hands them on as **kwargs, to nobody."""
    model = kit.Mlp()
    given = {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "data_loader": DataLoader(kit.vectors(), batch_size=4),
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
    }
    with pytest.raises(TypeError, match="max_gradnorm"):
        PrivacyEngine().make_private(**given, max_gradnorm=1.0)
    with pytest.raises(TypeError, match="poisson"):
        PrivacyEngine().make_private(**given, poisson=False)
    with pytest.raises(TypeError, match="clipping"):
        PrivacyEngine().make_private(**given, clipping="flat")

    theirs(nn.Linear(3, 2), torch.randn(8, 3), "hooks", max_gradnorm=1.0, poisson=True)


# ---- models ------------------------------------------------------------------------------------


class Patches(nn.Module):
    """As a vision transformer: a class token and positions that belong to the root."""

    def __init__(self, block):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.embed, self.block, self.head = nn.Linear(6, 8), block, nn.Linear(8, 5)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head(self.block(x + self.places)[:, 0])


class Squares(nn.Module):
    """Linear layers on [B, H, W, channels]."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 5)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x))).mean((1, 2))


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.rest = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))

    def forward(self, x):
        return checkpoint(self.rest, self.first(x), use_reentrant=False)


def labelled(*shape):
    return TensorDataset(torch.randn(40, *shape), torch.randint(5, (40,)))


def test_root_parameters_leave_the_layers_alone(kit):
    """A Parameter at the root makes Opacus vectorize the whole model, layers and all."""
    trained = kit.private(Patches(kit.Block(8)), labelled(4, 6), max_grad_norm=0.3)
    kit.agree(trained)
    plan = trained.engine.plan()
    assert plan.count("the operations on its parameters") == 1  # the root
    assert plan.count("rule for groups") == len(plan.splitlines()) - 3 == 8

    model, *_ = theirs(Patches(kit.Block(8)), torch.randn(8, 4, 6))
    assert [type(m) for m in model.iterate_submodules(model._module)] == [Patches]


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_linear_layers_on_four_axes(kit, memory):
    """Opacus' ghost norms know two and three axes, and no others."""
    kit.agree(kit.private(Squares(), labelled(2, 3, 6), max_grad_norm=0.3, memory=memory))

    model, _, loss, loader = theirs(Squares(), torch.randn(8, 2, 3, 6))
    x, y = next(iter(loader))
    with pytest.raises(AttributeError, match="_norm_sample"):
        loss(model(x), y).backward()


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_tied_weights(kit, memory):
    """Opacus refuses them in ghost mode."""
    kit.agree(kit.private(kit.Transformer(), kit.texts(), max_grad_norm=0.3, memory=memory))

    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    model, _, _, loader = theirs(tied, torch.randn(8, 3))
    with pytest.raises(NotImplementedError, match="Parameter tying"):
        model(next(iter(loader))[0])


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_activation_checkpointing(kit, memory):
    """Opacus takes the second forward of a checkpointed layer for tied weights."""
    kit.agree(kit.private(Recomputed(), kit.vectors(), max_grad_norm=0.3, memory=memory))

    model, _, loss, loader = theirs(Recomputed(), torch.randn(8, 6))
    x, y = next(iter(loader))
    with pytest.raises(NotImplementedError, match="Parameter tying"):
        loss(model(x), y).backward()
