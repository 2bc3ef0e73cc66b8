"""Every grouping with every weighting equals the loop twin; what is special about each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dpclip import (
    by_key,
    chain,
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

GROUPINGS = [
    per_sample(),
    micro_batches(3),
    micro_batches(3, slots="random"),
    per_core(3),
    per_core(3, slots="fixed"),
    by_key(lambda i: i % 4),
    by_key(lambda i: i // 3, unit="user"),
]
WEIGHTINGS = [
    uniform(),
    clip(0.3),
    clip_to_min(),
    normalize(0.1, radius=2.0),
    quantile(0.5, bound=0.3),
    per_layer(clip(0.1)),
    per_layer(clip_to_min()),
    chain(normalize(0.5), clip(0.4)),
    chain(clip(0.2), clip_to_min()),
    chain(per_layer(clip(0.1)), quantile(0.3, bound=0.2)),
]


def _label(value: object) -> str:
    return str(getattr(value, "label", value))


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=_label)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=_label)
@pytest.mark.parametrize("name", ["Mlp", "ConvNet", "Transformer"])
def test_equals_the_loop(kit, name, grouping, weighting):
    data = {"Mlp": kit.vectors, "ConvNet": kit.images, "Transformer": kit.texts}[name]()
    trained = kit.private(getattr(kit, name)(), data, grouping=grouping, weighting=weighting)
    kit.agree(trained)


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(3)], ids=_label)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_loop_for_sums(kit, positions, grouping, reduction):
    for weighting in (clip(0.3), clip_to_min()):
        trained = kit.private(
            kit.Transformer(positions),
            kit.texts(),
            grouping=grouping,
            weighting=weighting,
            reduction=reduction,
        )
        kit.agree(trained, steps=2)


@pytest.mark.parametrize("grouping", GROUPINGS[:5], ids=_label)
def test_batch_that_comes_as_it_is(kit, grouping):
    """Ragged last groups: 10 samples in threes, and a short last batch."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(24),
        batch_size=10,
        grouping=grouping,
        weighting=clip(0.3),
        poisson_sampling=False,
    )
    kit.agree(trained, steps=3)


def test_one_group_is_plain_training(kit):
    model = kit.ConvNet()
    plain = copy.deepcopy(model)
    trained = kit.private(
        model,
        kit.images(),
        grouping=micro_batches(8),
        weighting=clip_to_min(),
        poisson_sampling=False,
    )
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        wanted = torch.autograd.grad(kit.mean_loss(plain(x), y), list(plain.parameters()))
        kit.close(trained.grads, list(wanted), 1e-13)
        trained.optimizer.step()
        plain.load_state_dict(trained.model.state_dict())


def _first(kit, model=None, scale=1.0, **how):
    """p.grad of the first batch of a seeded run."""
    torch.manual_seed(3)
    trained = kit.private(model or kit.Mlp(), kit.vectors(), **how)
    x, y = next(iter(trained.loader))
    (scale * kit.mean_loss(trained.model(x), y)).backward()
    return trained.grads


@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(3), per_core(2)], ids=_label)
def test_large_bound_is_uniform_bit_for_bit(kit, grouping):
    clipped = _first(kit, grouping=grouping, weighting=clip(1e6))
    plain = _first(kit, grouping=grouping, weighting=uniform())
    assert all(torch.equal(a, b) for a, b in zip(clipped, plain, strict=True))


@pytest.mark.parametrize("rule", [clip(0.3), clip_to_min()], ids=_label)
def test_virtual_cores_are_micro_batches(kit, rule):
    how = {"weighting": rule, "poisson_sampling": False}
    cores = _first(kit, grouping=per_core(4), **how)
    kit.close(cores, _first(kit, grouping=micro_batches(2), **how), 1e-14)


def test_scale_of_the_loss(kit):
    """APCC is scale-free (same direction, ten times the norm); PCC is not."""
    low, high = (
        _first(kit, grouping=per_core(3), weighting=clip_to_min(), scale=s) for s in (1, 10)
    )
    kit.close(high, [10 * g for g in low], 1e-12)
    low, high = (_first(kit, grouping=per_core(3), weighting=clip(0.3), scale=s) for s in (1, 10))
    with pytest.raises(AssertionError):
        kit.close(high, [10 * g for g in low], 1e-2)


def test_after_clip_to_min_every_group_has_the_smallest_norm(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), grouping=per_core(3), weighting=clip_to_min())
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x), y).backward()
    total = torch.cat([g.flatten() for g in trained.grads]).norm()
    trained.optimizer.step()
    seen = trained.engine.diagnostics()
    assert torch.allclose(seen.norms * seen.weights, seen.norms.min().expand(3))
    assert total <= seen.norms.min() * (1 + 1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_clip_to_min_over_several_backwards(kit, size):
    """One buffer: S = sum u/n, r = min n, update (r/J) S, rewritten after each backward."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        grouping=micro_batches(size),
        weighting=clip_to_min(),
        poisson_sampling=False,
    )
    x, y = next(iter(trained.loader))
    us = [trained.twin.group(a, b, None) for a, b in zip(x.split(size), y.split(size), strict=True)]
    flat = torch.stack([torch.cat([g.flatten() for g in u]) for u in us])
    norms = flat.norm(dim=1)
    slices = zip(x.split(size), y.split(size), strict=True)
    for done, (a, b) in enumerate(slices, 1):
        kit.mean_loss(trained.model(a), b).backward()
        buffer = (flat[:done] / norms[:done, None]).sum(0)
        wanted = norms[:done].min() / len(us) * buffer
        kit.close([torch.cat([g.flatten() for g in trained.grads])], [wanted], 1e-12)


@pytest.mark.parametrize("rule", [clip(0.3), clip_to_min(), per_layer(clip_to_min())], ids=_label)
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(3), per_core(2)], ids=_label)
def test_slices_add_up_wherever_they_cut(kit, rule, size, grouping):
    """backward() on slices of one batch is one backward on it, also for a group that is cut."""
    how = {"grouping": grouping, "weighting": rule, "lr": 0.0, "poisson_sampling": False}
    trained = kit.private(kit.Mlp(), kit.vectors(), **how)
    x, y = next(iter(trained.loader))
    wanted = trained.expected(x, y)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        kit.mean_loss(trained.model(a), b).backward()
    kit.close(trained.grads, wanted)
    trained.optimizer.step()
    assert trained.inner.mechanism.ledger.reasons == [
        "batches were not drawn by Poisson sampling",
        "no noise was added",
    ] or (
        "groups are formed" in " ".join(trained.inner.mechanism.ledger.reasons)
        or "depends on the other" in " ".join(trained.inner.mechanism.ledger.reasons)
    )


def test_group_cut_by_the_last_slice_is_counted_at_the_step(kit):
    """Training on the first 4 of 8 samples with groups of 3: the fourth counts as a group."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        grouping=micro_batches(3),
        weighting=clip(0.3),
        poisson_sampling=False,
        lr=0.0,
    )
    x, y = next(iter(trained.loader))
    us = [trained.twin.group(x[a:b], y[a:b], None) for a, b in ((0, 3), (3, 4))]
    kit.mean_loss(trained.model(x[:4]), y[:4]).backward()
    trained.optimizer.step()
    flat = torch.stack([torch.cat([g.flatten() for g in u]) for u in us])
    wanted = ((0.3 / flat.norm(dim=1)).clamp(max=1)[:, None] * flat).sum(0) / 3
    kit.close([torch.cat([g.flatten() for g in trained.grads])], [wanted])


def test_group_without_gradient_stops_clip_to_min(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip_to_min(), poisson_sampling=False)
    x, y = next(iter(trained.loader))
    weight = torch.ones(8).index_fill_(0, torch.tensor(2), 0.0)
    (
        torch.nn.functional.cross_entropy(trained.model(x), y, reduction="none") * weight
    ).mean().backward()
    assert all(not g.any() for g in trained.grads)


def test_rows_that_are_not_finite_are_left_out(kit):
    for bad in (float("nan"), float("inf")):
        for rule in (clip(0.3), clip_to_min(), uniform(), quantile(0.5), per_layer(clip(0.1))):
            trained = kit.private(kit.Mlp(), kit.vectors(), weighting=rule, poisson_sampling=False)
            x, y = next(iter(trained.loader))
            wanted = trained.twin.update(x[1:], y[1:], torch.arange(7), None)
            x[0] = bad
            kit.mean_loss(trained.model(x), y).backward()
            kit.close(trained.grads, [w * 7 / 8 for w in wanted])
            trained.optimizer.step()
            seen = trained.engine.diagnostics()
            assert seen.invalid == 1 and seen.weights[..., 0].abs().max() == 0
            assert all(p.isfinite().all() for p in trained.model.parameters())


def test_float32_agrees_with_the_float64_twin(kit):
    torch.set_default_dtype(torch.float32)
    trained = kit.private(
        kit.ConvNet(), kit.images(), grouping=micro_batches(3), weighting=clip(0.3)
    )
    trained.twin.model.double()
    for x, y in trained.loader:
        trained.optimizer.zero_grad()
        kit.mean_loss(trained.model(x), y).backward()
        wanted = trained.expected(x.double(), y)
        kit.close([g.double() for g in trained.grads], wanted, 2e-5)
        break


def test_joint_rule_in_front_of_a_chain_needs_one_backward(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), weighting=chain(clip_to_min(), clip(1.0)), poisson_sampling=False
    )
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x[:4]), y[:4]).backward()
    with pytest.raises(RuntimeError, match="looks at all groups of a step at once"):
        kit.mean_loss(trained.model(x[4:]), y[4:]).backward()


def test_diagnostics(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.5))
    with pytest.raises(RuntimeError, match="No step was taken"):
        trained.engine.diagnostics()
    kit.agree(trained, steps=1)
    seen = trained.engine.diagnostics()
    assert seen.fraction_clipped == float((seen.norms > 0.5).double().mean())
    assert trained.engine.steps == 1


def test_state_continues_bit_for_bit(kit):
    def run(stop: bool):
        torch.manual_seed(5)
        model, data = kit.Mlp(), kit.vectors()
        how = {"weighting": quantile(0.5, count_noise=1.0), "noise_multiplier": 1.0}
        trained = kit.private(model, data, **how)

        def epoch(t):
            for x, y in t.loader:
                t.optimizer.zero_grad()
                kit.mean_loss(t.model(x), y).backward()
                t.optimizer.step()

        epoch(trained)
        if stop:
            state, weights = trained.engine.state_dict(), copy.deepcopy(model.state_dict())
            trained.engine.close()
            model = kit.Mlp()
            model.load_state_dict(weights)
            trained = kit.private(model, data, seed=99, **how)
            trained.engine.load_state_dict(state)
        epoch(trained)
        return list(trained.model.parameters()), trained.engine.get_epsilon(1e-5)

    (one, spent), (two, again) = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert spent == again > 0


def test_ctc_and_cross_entropy_survive_empty_batches(kit):
    data = TensorDataset(torch.randn(50, 12, 4), torch.randint(1, 6, (50, 3)))
    from torch import nn

    model = nn.Linear(4, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    from dpclip import PrivacyEngine

    engine = PrivacyEngine(seed=0)
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=1),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    empty = 0
    for x, y in loader:
        optimizer.zero_grad()
        before = model.weight.detach().clone()
        b = len(x)
        logs = model(x).log_softmax(-1).transpose(0, 1)
        nn.functional.ctc_loss(
            logs, y, torch.full((b,), 12), torch.full((b,), 3), reduction="none"
        ).mean().backward()
        hidden = not engine._engine.yielded.piece.real.any()
        if hidden:
            empty += 1
            assert not model.weight.grad.any()
        optimizer.step()
        assert not torch.equal(before, model.weight)
    assert empty > 5 and engine.steps == 50
    assert 0 < engine.get_epsilon(1e-5) < float("inf")


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_loses_nothing_of_the_bound(kit, inside):
    """Also where backward runs inside of it, whose products would have three digits."""
    torch.set_default_dtype(torch.float32)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5), torch.nn.LayerNorm(5)
    )
    data = TensorDataset(torch.randn(60, 5, 64))
    trained = kit.private(model, data, batch_size=1, max_grad_norm=1e-3, lr=0.0)
    seen = 0
    for (x,) in trained.loader:
        real = int(trained.inner.yielded.piece.real.sum())
        trained.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = trained.model(x).float().square().mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        if real == 1:
            seen += 1
            length = float(torch.cat([g.flatten() for g in trained.grads]).norm())
            assert length == pytest.approx(1e-3, rel=1e-5)
        trained.optimizer.step()
    assert seen > 10


@pytest.mark.parametrize("loop", [False, True])
def test_model_may_be_cast_after_it_was_made_private(kit, loop):
    """As trainers move it; where it is, is asked in each forward."""
    torch.set_default_dtype(torch.float32)
    trained = kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.3), loop=loop)
    trained.model.double()
    trained.twin.model.double()
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x.double()), y).backward()
    kit.close(trained.grads, trained.expected(x.double(), y))
