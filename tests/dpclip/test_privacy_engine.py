"""What is claimed, what noise is added, and how batches reach the engine."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dpclip import (
    PrivacyEngine,
    budget,
    by_key,
    chain,
    clip,
    clip_to_min,
    gaussian,
    micro_batches,
    per_core,
    per_layer,
    per_sample,
    quantile,
    step_budget,
)
from dpclip.accounting.spending import epsilon
from dpclip.budgets import BudgetSpent

BUDGETS = {
    make: make(3.0, 1e-5, noise_multiplier=2.0, sample_rate=0.2) for make in (budget, step_budget)
}
CLAIMED = [
    per_sample(),
    micro_batches(3, slots="random"),
    per_core(3, slots="fixed"),
    by_key(lambda i: i % 4),
    by_key(lambda i: i // 3, unit="user"),
]


def label(value):
    return str(getattr(value, "label", value))


def train(kit, trained, steps=None):
    for step, (x, y) in enumerate(trained.loader):
        if step == steps:
            break
        trained.optimizer.zero_grad()
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()


def noise_of_a_step(trained, kit, backwards=1):
    """Noise of one step: p.grad after it minus p.grad before."""
    x, y = next(iter(trained.loader))
    size = -(-len(x) // backwards)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        kit.mean_loss(trained.model(a), b).backward()
    before = trained.grads
    trained.optimizer.step()
    return torch.cat([(a - b).flatten() for a, b in zip(trained.grads, before, strict=True)])


class Wide(nn.Module):
    """Many coordinates, and a parameter that the forward does not use."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(6, 800), nn.Linear(20, 100)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("grouping", [*CLAIMED, micro_batches(2), per_core(2)], ids=label)
def test_noise_scale(kit, grouping, reduction):
    """Std on the sum is sigma times the sensitivity; chi-square at 4.5 standard errors."""
    sigma, c = 1.7, 0.3
    how = {"grouping": grouping, "max_grad_norm": c, "noise_multiplier": sigma, "lr": 0.0}
    claims = grouping.facts.radii is not None
    if claims:
        trained = kit.private(Wide(), kit.vectors(), reduction=reduction, **how)
    else:
        with pytest.warns(UserWarning, match="slots="):
            trained = kit.private(Wide(), kit.vectors(), reduction=reduction, **how)
    noise = noise_of_a_step(trained, kit)
    d = (
        trained.inner.yielded.divisor.groups
        if trained.inner.yielded.divisor
        else trained.inner.yielded.piece.groups
    )
    std = sigma * c * (grouping.facts.radii or 1.0) / (d if reduction == "mean" else 1.0)
    ratio = float((noise / std).square().mean())
    assert abs(ratio - 1) < 4.5 * math.sqrt(2 / len(noise))
    idle = noise[-2100:]
    assert abs(float((idle / std).square().mean()) - 1) < 4.5 * math.sqrt(2 / 2100)
    assert (math.isinf(trained.engine.get_epsilon(1e-5))) is not claims


def test_noise_is_added_once_over_several_backwards(kit):
    how = {"max_grad_norm": 0.3, "noise_multiplier": 1.0, "lr": 0.0}
    once = noise_of_a_step(kit.private(Wide(), kit.vectors(), **how), kit)
    torch.manual_seed(0)
    trained = kit.private(Wide(), kit.vectors(), **how)
    thrice = noise_of_a_step(trained, kit, backwards=3)
    assert torch.allclose(once, thrice, atol=1e-12)
    assert trained.engine.steps == 1 and trained.inner.mechanism.ledger.history[0][2] == 1
    assert 0 < trained.engine.get_epsilon(1e-5) < math.inf


def test_noise_follows_the_layers(kit):
    """per_layer: the noise of every layer has the scale of the whole row's bound."""
    trained = kit.private(
        Wide(), kit.vectors(), weighting=per_layer(clip(0.3)), noise_multiplier=1.0, lr=0.0
    )
    noise = noise_of_a_step(trained, kit)
    std = 0.3 * math.sqrt(4) / 8
    assert abs(float((noise / std).square().mean()) - 1) < 4.5 * math.sqrt(2 / len(noise))


def test_custom_noise_is_used(kit):
    from dpclip.types import Noise

    seen = []
    none = Noise("none()", lambda like, std, _g: seen.append(std) or torch.zeros_like(like))
    trained = kit.private(
        kit.Mlp(), kit.vectors(), max_grad_norm=2.0, noise_multiplier=0.5, noise=none
    )
    assert not noise_of_a_step(trained, kit).any()
    assert seen == [0.5 * 2.0 / 8] * 4
    assert gaussian().label == "gaussian()"


@pytest.mark.parametrize("grouping", CLAIMED, ids=label)
def test_seeds_reproduce(kit, grouping):
    def run(seed):
        torch.manual_seed(4)
        how = {"grouping": grouping, "max_grad_norm": 0.3, "noise_multiplier": 1.0, "seed": seed}
        trained = kit.private(kit.Mlp(), kit.vectors(), **how)
        train(kit, trained)
        return torch.cat([p.detach().flatten() for p in trained.model.parameters()])

    one, two, other = run(1), run(1), run(2)
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert not torch.equal(run(None), run(None))


@pytest.mark.parametrize(
    "rule",
    [clip(0.2), clip_to_min(), quantile(0.5, bound=0.2), per_layer(clip_to_min())],
    ids=label,
)
@pytest.mark.parametrize(
    "grouping", [*CLAIMED, micro_batches(3), micro_batches(7), per_core(2)], ids=label
)
def test_physical_batches_change_nothing(kit, grouping, rule):
    """The user's loop is the same; also for slots larger than the limit, and for the noise."""
    noisy = rule.label == "clip(0.2)" and grouping.facts.radii is not None
    runs = []
    for limit in (None, 3):
        torch.manual_seed(6)
        trained = kit.private(
            kit.Mlp(),
            kit.vectors(),
            batch_size=12,
            grouping=grouping,
            weighting=rule,
            noise_multiplier=1.0 if noisy else 0.0,
            max_physical_batch=limit,
        )
        sizes = []
        for x, y in trained.loader:
            sizes.append(len(x))
            trained.optimizer.zero_grad()
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()
        assert trained.engine.steps == 4
        assert limit is None or (max(sizes) <= limit and len(sizes) > 8)
        runs.append(([p.detach() for p in trained.model.parameters()], trained))
    kit.close(runs[0][0], runs[1][0], 1e-10)
    assert runs[0][1].engine.get_epsilon(1e-5) == runs[1][1].engine.get_epsilon(1e-5)


def test_physical_batches_with_one_step_for_all(kit):
    """Stepping only after the last piece is the same as stepping after each."""
    runs = []
    for each in (True, False):
        torch.manual_seed(6)
        trained = kit.private(
            kit.Mlp(), kit.vectors(), weighting=clip_to_min(), max_physical_batch=3
        )
        for x, y in trained.loader:
            kit.mean_loss(trained.model(x), y).backward()
            if each or trained.inner.yielded.piece.last:
                trained.optimizer.step()
        runs.append([p.detach() for p in trained.model.parameters()])
    kit.close(*runs, 1e-12)


@pytest.mark.parametrize("rule", [clip(0.2), clip_to_min(), quantile(0.5, bound=0.2)], ids=label)
@pytest.mark.parametrize("stepped", [True, False])
def test_early_break_misplaces_nothing(kit, rule, stepped):
    """What the pieces of an unfinished batch have added up is forgotten, with its statistics."""
    torch.manual_seed(6)
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(),
        weighting=rule,
        grouping=micro_batches(2),
        max_physical_batch=2,
        lr=0.0,
    )
    for x, y in trained.loader:
        assert trained.inner.yielded.piece.first and not trained.inner.yielded.piece.last
        (1e-3 * kit.mean_loss(trained.model(x), y)).backward()  # norms far below all others
        if stepped:
            trained.optimizer.step()
        break
    rows, slots = [], []
    for x, y in trained.loader:
        piece = trained.inner.yielded.piece
        rows.append((x, y))
        slots.append(piece.slots)
        trained.optimizer.zero_grad()
        kit.mean_loss(trained.model(x), y).backward()
        if piece.last:
            break
        trained.optimizer.step()
    x, y = (torch.cat(part) for part in zip(*rows, strict=True))
    wanted = trained.twin.update(x, y, torch.cat(slots), None)
    trained.optimizer.step()
    kit.close(trained.grads, wanted)
    assert trained.engine.steps == 1
    assert not any("before the optimizer step" in r for r in trained.inner.mechanism.ledger.reasons)


def test_early_break_keeps_the_claim(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0, max_physical_batch=2
    )
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        break
    train(kit, trained)
    assert 0 < trained.engine.get_epsilon(1e-5) < math.inf
    assert trained.inner.mechanism.ledger.history[0][2] == 5


# ---- claims ------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", CLAIMED, ids=label)
def test_guarantee_names_the_sensitivity(kit, grouping):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), grouping=grouping, max_grad_norm=0.5, noise_multiplier=1.0
    )
    radii = {"per_sample()": 1.0}.get(grouping.label, 2.0)
    if "user" in grouping.label:
        radii = 1.0
    said = trained.engine.guarantee
    assert f"moves the sum by at most {0.5 * radii:.4g}" in said and "PRV" in said
    assert ("user" if "user" in grouping.label else "record") in said
    assert trained.engine.get_epsilon(1e-5) == 0.0
    train(kit, trained, 2)
    assert 0 < trained.engine.get_epsilon(1e-5) < math.inf


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"max_grad_norm": 1.0}, "no noise was added"),
        ({"weighting": clip_to_min()}, "depends on the other groups"),
        ({"weighting": chain(clip(1.0), clip_to_min())}, "depends on the other groups"),
        ({"weighting": quantile(0.5)}, "follows the other groups' norms"),
        ({"max_grad_norm": 1.0, "grouping": micro_batches(2)}, "shifts all behind it"),
        ({"max_grad_norm": 1.0, "grouping": per_core(2)}, "shifts all behind it"),
        ({"max_grad_norm": 1.0, "poisson_sampling": False, "noise_multiplier": 1.0}, "Poisson"),
    ],
)
def test_no_claim_names_the_reason(kit, how, reason):
    trained = kit.private(kit.Mlp(), kit.vectors(), **how)
    for _ in range(2):
        assert trained.engine.get_epsilon(1e-5) == math.inf
        assert reason in trained.engine.guarantee and "No epsilon" in trained.engine.guarantee
        train(kit, trained, 1)


def noisy(kit, **how):
    return kit.private(kit.Mlp(), kit.vectors(), max_grad_norm=0.3, noise_multiplier=1.0, **how)


def test_foreign_batch_voids(kit):
    trained = noisy(kit)
    x, y = kit.vectors(5).tensors
    kit.mean_loss(trained.model(x), y).backward()
    kit.close(
        trained.grads,
        trained.twin.update(x, y, torch.arange(5), trained.inner.yielded.divisor and None),
        1,
    )
    trained.optimizer.step()
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert "did not come from the loader" in trained.engine.guarantee


@pytest.mark.parametrize("grouping", CLAIMED[1:], ids=label)
def test_foreign_batch_without_ids_raises(kit, grouping):
    trained = noisy(kit, grouping=grouping)
    x, y = kit.vectors(5).tensors
    with pytest.raises(RuntimeError, match="needs to know which records"):
        kit.mean_loss(trained.model(x), y).backward()


def test_second_batch_before_the_step_voids_and_accumulates(kit):
    trained = noisy(kit, lr=0.0)
    wanted = []
    for number, (x, y) in enumerate(trained.loader):
        wanted.append(trained.expected(x, y))
        kit.mean_loss(trained.model(x), y).backward()
        if number:
            break
    kit.close(trained.grads, [a + b for a, b in zip(*wanted, strict=True)])
    trained.optimizer.step()
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert "second batch was drawn" in trained.engine.guarantee


def test_batch_that_was_followed_by_another_voids(kit):
    """Its records may be in the next one too, and the engine has let go of it."""
    trained = noisy(kit, lr=0.0)
    batches = iter(trained.loader)
    x, y = next(batches)
    wanted, loss = trained.expected(x, y), kit.mean_loss(trained.model(x), y)
    next(batches)
    loss.backward()
    kit.close(trained.grads, wanted)
    trained.optimizer.step()
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert "had not just yielded" in trained.engine.guarantee


@pytest.mark.parametrize("grouping", CLAIMED, ids=label)
def test_two_losses_on_the_same_records_void(kit, grouping):
    trained = noisy(kit, grouping=grouping, lr=0.0)
    x, y = next(iter(trained.loader))
    wanted = trained.expected(x, y)
    for _ in range(2):
        kit.mean_loss(trained.model(x), y).backward()
    kit.close(trained.grads, [2 * w for w in wanted])
    trained.optimizer.step()
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert "count twice" in trained.engine.guarantee


def test_slices_keep_the_claim(kit):
    trained = noisy(kit)
    for x, y in trained.loader:
        trained.optimizer.zero_grad()
        for a, b in zip(x.split(3), y.split(3), strict=True):
            kit.mean_loss(trained.model(a), b).backward()
        trained.optimizer.step()
    assert 0 < trained.engine.get_epsilon(1e-5) < math.inf


def test_steps_are_charged_at_the_drawn_rate(kit):
    trained = noisy(kit, batch_size=10)
    train(kit, trained)
    assert trained.inner.mechanism.ledger.history == [(1.0, 0.25, 4)]


def test_noised_quantile_is_charged_with_its_count(kit):
    for grouping, shift in ((per_sample(), 0.5), (micro_batches(2, slots="random"), 1.0)):
        trained = kit.private(
            kit.Mlp(),
            kit.vectors(),
            grouping=grouping,
            weighting=quantile(0.5, bound=0.3, count_noise=2.0),
            noise_multiplier=1.5,
        )
        train(kit, trained, 1)
        z = (1.5**-2 + (2.0 / shift) ** -2) ** -0.5
        assert trained.inner.mechanism.ledger.history[0][0] == pytest.approx(z)
        assert "noised count" in trained.engine.guarantee


@pytest.mark.parametrize("rule", [clip(1.0), quantile(0.5, count_noise=5.0)], ids=label)
def test_target_epsilon(kit, rule):
    """A released count is part of what is spent."""
    for accountant in ("rdp", "prv"):
        model = kit.Mlp()
        engine = PrivacyEngine(accountant, seed=0)
        _, optimizer, loader = engine.make_private_with_epsilon(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(kit.vectors(), batch_size=4),
            target_epsilon=3.0,
            target_delta=1e-5,
            epochs=2,
            weighting=rule,
            grouping=micro_batches(2, slots="random"),
        )
        for _ in range(2):
            for x, y in loader:
                optimizer.zero_grad()
                kit.mean_loss(model(x), y).backward()
                optimizer.step()
        assert 2.95 <= engine.get_epsilon(1e-5) <= 3.0
        engine.close()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"max_grad_norm": 1.0, "grouping": micro_batches(2)}, "cannot be met.*slots="),
        ({"weighting": clip_to_min()}, "cannot be met"),
        ({"weighting": quantile(0.5)}, "cannot be met"),
        ({"weighting": quantile(0.5, count_noise=0.01)}, "the noised count of the quantile alone"),
        ({}, "neither was given"),
        ({"max_grad_norm": 1.0, "target_epsilon": -1.0}, "expected a positive"),
    ],
)
def test_target_epsilon_refuses_and_leaves_the_model_alone(kit, how, words):
    model = kit.Mlp()
    engine = PrivacyEngine()
    given = {"target_epsilon": 3.0, "target_delta": 1e-5, "epochs": 1} | how
    with pytest.raises(ValueError, match=words):
        engine.make_private_with_epsilon(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(kit.vectors(), batch_size=4),
            **given,
        )
    assert not any(m._forward_hooks for m in model.modules())


def test_questions_before_make_private():
    engine = PrivacyEngine()
    with pytest.raises(RuntimeError, match="Call make_private first"):
        engine.get_epsilon(1e-5)
    with pytest.raises(ValueError, match="gdp"):
        PrivacyEngine("gdp")


def test_state_of_another_accountant(kit):
    trained = noisy(kit)
    state = trained.engine.state_dict()
    with pytest.raises(ValueError, match="accountant 'rdp'"):
        trained.engine.load_state_dict(state | {"accountant": "rdp"})
    train(kit, trained)
    again = noisy(kit)
    again.engine.load_state_dict(trained.engine.state_dict())
    assert again.engine.steps == 5
    assert again.engine.get_epsilon(1e-5) == trained.engine.get_epsilon(1e-5)
    with pytest.raises(RuntimeError, match="after 5 steps of training"):
        trained.engine.load_state_dict(state)


# ---- several phases ----------------------------------------------------------------------------


def phase(kit, engine, model, batch_size, **how):
    """Trains one epoch; returns p.grad after the last step, and hands the model back."""
    torch.manual_seed(0)
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        data_loader=DataLoader(kit.vectors(), batch_size=batch_size),
        noise_multiplier=1.0,
        max_grad_norm=1e-9,
        **how,
    )
    for x, y in loader:
        optimizer.zero_grad()
        kit.mean_loss(model(x), y).backward()
        optimizer.step()
    engine.close()
    return [p.grad.clone() for p in model.parameters()]


def test_phases_of_training_add_up(kit):
    """Each with its own rate, and with noise of its own though the seed is one."""
    engine, model = PrivacyEngine(seed=5), kit.Mlp()
    first = phase(kit, engine, model, 8)
    one = engine.get_epsilon(1e-5)
    second = phase(kit, engine, model, 8)
    phase(kit, engine, model, 20)
    wanted = epsilon("prv", [(1.0, 0.2, 10), (1.0, 0.5, 2)], 1e-5)
    assert one < engine.get_epsilon(1e-5) == wanted < math.inf
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    phase(kit, engine, model, 8, poisson_sampling=False)
    assert engine.get_epsilon(1e-5) == math.inf


def test_noise_multiplier_and_weighting_may_change_between_steps(kit):
    """Noise follows the bound, and each step is charged as it was."""
    trained = kit.private(
        Wide(), kit.vectors(), max_grad_norm=1e-6, noise_multiplier=1.0, lr=0.0, batch_size=20
    )
    noise_of_a_step(trained, kit)
    trained.engine.noise_multiplier, trained.engine.weighting = 2.0, clip(1e-5)
    noise = noise_of_a_step(trained, kit)
    std = 2.0 * 1e-5 / 20
    assert abs(float((noise / std).square().mean()) - 1) < 4.5 * math.sqrt(2 / len(noise))
    assert trained.inner.mechanism.ledger.history == [(1.0, 0.5, 1), (2.0, 0.5, 1)]
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x), y).backward()
    with pytest.raises(RuntimeError, match="between backward"):
        trained.engine.weighting = clip(1.0)
    trained.optimizer.step()
    with pytest.raises(ValueError, match="no amount of noise means anything"):
        trained.engine.weighting = clip_to_min()
    with pytest.raises(ValueError, match="expected a number >= 0"):
        trained.engine.noise_multiplier = math.nan
    assert trained.engine.weighting.label == "clip(1e-05)"
    trained.engine.noise_multiplier = 0.0
    assert trained.engine.get_epsilon(1e-5) == math.inf
    trained.engine.weighting = clip_to_min()
    trained.optimizer.step()
    assert "depends on the other groups" in trained.engine.guarantee


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("make", [budget, step_budget])
def test_training_ends_with_its_budget(kit, make, limit):
    """The loader ends; who steps all the same is stopped before anything is released."""
    torch.manual_seed(0)
    engine, model = PrivacyEngine(budget=BUDGETS[make], seed=0), kit.Mlp()
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(kit.vectors(), batch_size=8),
        noise_multiplier=2.0,
        max_grad_norm=1.0,
        max_physical_batch=limit,
    )
    for _ in range(30):
        for x, y in loader:
            optimizer.zero_grad()
            kit.mean_loss(model(x), y).backward()
            optimizer.step()
    spent, steps = engine.get_epsilon(1e-5), engine.steps
    assert 0.85 * 3.0 < spent <= 3.0 and 3 < steps < 150
    assert "at delta = 1e-05" in engine.guarantee and "epsilon = 3" in engine.guarantee
    assert not list(loader)
    before = [p.detach().clone() for p in model.parameters()]
    loader._affords = lambda _: True
    with pytest.raises(BudgetSpent, match="One more step"):
        for x, y in loader:
            kit.mean_loss(model(x), y).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert (engine.steps, engine.get_epsilon(1e-5)) == (steps, spent)


def test_half_precision_parameters_claim_nothing(kit):
    """Their sum is rounded before it gets noise; one row of length C moved one by 1.4 C."""
    torch.set_default_dtype(torch.float32)
    trained = kit.private(
        kit.Mlp().bfloat16(), kit.vectors(), max_grad_norm=1.0, noise_multiplier=1.0
    )
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert "half precision" in trained.engine.guarantee


def test_secure_randomness_has_no_seed():
    with pytest.raises(ValueError, match="secure=True with seed=0"):
        PrivacyEngine(secure=True, seed=0)


def test_a_false_promise_is_found_when_the_engine_is_made(kit):
    rule = clip(1.0)
    double = replace(rule, label="double()", weigh=lambda s, t: (2 * rule.weigh(s, t)[0], t))
    model = kit.Mlp()
    with pytest.raises(ValueError, match=r"double\(\)"):
        kit.private(model, kit.vectors(), weighting=double)
    assert not any(m._forward_hooks for m in model.modules())


# ---- what an ordinary loop may do wrong --------------------------------------------------------


def voided(trained, words):
    assert trained.engine.get_epsilon(1e-5) == math.inf
    assert words in trained.engine.guarantee


@pytest.mark.parametrize("limit", [None, 3])
def test_a_part_of_the_batch_voids(kit, limit):
    """If a record leaves, the next one moves in."""
    trained = noisy(kit, max_physical_batch=limit)
    for number, (x, y) in enumerate(trained.loader):
        kit.mean_loss(trained.model(x[:2]), y[:2]).backward()
        trained.optimizer.step()
        if number == 1:
            break
    voided(trained, "rows of a batch of")


@pytest.mark.parametrize("taken", [False, True])
def test_two_iterators_at_once_void(kit, taken):
    """Whether or not the batch of the other one was trained on."""
    trained = noisy(kit)
    one, other = iter(trained.loader), iter(trained.loader)
    x, y = next(one)
    kit.mean_loss(trained.model(x), y).backward()
    trained.optimizer.step()
    x, y = next(other)
    if taken:
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    assert trained.engine.get_epsilon(1e-5) < math.inf
    next(one)
    voided(trained, "two iterators at once")


def test_a_look_at_a_batch_beforehand_is_fine(kit):
    trained = noisy(kit)
    next(iter(trained.loader))
    train(kit, trained)
    assert trained.engine.get_epsilon(1e-5) < math.inf


@pytest.mark.parametrize("order", [(1, 0), (0, 0)])
def test_slices_out_of_order_void(kit, order):
    """Which rows a slice holds is known by what went through before it."""
    trained = noisy(kit, batch_size=12)
    x, y = next(iter(trained.loader))
    half = len(x) // 2
    parts = (slice(0, half), slice(half, None))
    losses = [kit.mean_loss(trained.model(x[part]), y[part]) for part in parts]
    for which in order:
        losses[which].backward(retain_graph=True)
    trained.optimizer.step()
    voided(trained, "count twice" if order == (0, 0) else "had not just yielded")


def test_slices_out_of_order_cannot_be_grouped(kit):
    trained = noisy(kit, batch_size=12, grouping=micro_batches(3, slots="random"))
    x, y = next(iter(trained.loader))
    first, second = (kit.mean_loss(trained.model(x[p]), y[p]) for p in (slice(0, 4), slice(4, 7)))
    first.backward()
    with pytest.raises(RuntimeError, match="needs to know which records"):
        second.backward()


@pytest.mark.parametrize("how", ["longer", "replaced", "between", "clipped"])
def test_gradients_that_are_changed_before_the_step(kit, how):
    trained = noisy(kit, batch_size=12)
    x, y = next(iter(trained.loader))
    for part in (slice(0, 3), slice(3, None)):
        kit.mean_loss(trained.model(x[part]), y[part]).backward()
        if how == "between" and part.stop == 3:
            trained.inner.params[0].grad.mul_(2.0)
    params = trained.inner.params
    if how == "longer":
        params[0].grad.mul_(2.0)
    if how == "replaced":
        params[0].grad = params[0].grad.clone()
    if how == "clipped":
        torch.nn.utils.clip_grad_norm_(params, 1e-3)
    trained.optimizer.step()
    if how == "clipped":
        assert trained.engine.get_epsilon(1e-5) < math.inf
    else:
        voided(trained, "p.grad was replaced or made longer")


def test_cast_to_half_precision_later(kit):
    torch.set_default_dtype(torch.float32)
    trained = noisy(kit)
    trained.model.bfloat16()
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x.bfloat16()), y).backward()
    trained.optimizer.step()
    voided(trained, "half precision")


def test_closing_in_the_middle_of_a_step_leaves_no_gradient(kit):
    trained = noisy(kit)
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x), y).backward()
    params = trained.inner.params
    trained.engine.close()
    assert all(p.grad is None for p in params)


def test_a_copy_of_the_model_is_not_trained_with_its_hooks(kit):
    trained = noisy(kit)
    x, y = next(iter(trained.loader))
    twin = copy.deepcopy(trained.model)
    with torch.no_grad():
        twin(x)
    with pytest.raises(RuntimeError, match="A copy of a private model"):
        twin(x)
    kit.mean_loss(trained.model(x), y).backward()
    trained.optimizer.step()


def test_what_is_loaded_keeps_what_is_known(kit):
    """Reasons of this engine stay, and a later phase does not repeat the noise of a loaded one."""
    state = noisy(kit).engine.state_dict()
    trained = noisy(kit, poisson_sampling=False)
    trained.engine.load_state_dict(state | {"phase": 4})
    voided(trained, "Poisson")
    assert trained.engine.state_dict()["phase"] == 4
