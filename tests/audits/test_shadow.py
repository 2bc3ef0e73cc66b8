import dataclasses
import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, optim

from audits.membership import auc, lira_offline, lira_online, null_sd, rmia_offline, stable_logit
from audits.shadow import (
    Recipe,
    ShadowModels,
    automatic,
    held_out,
    one_by_one,
    processes,
    recipe_of,
    row,
    stacked,
    train_shadows,
)
from audits.shadow.halves import halves
from audits.shadow.job import Job, train
from audits.shadow.trying import attempt
from audits.tasks import digits


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return import_module("shadows")


def trained(parts: Any, recipe: Recipe, way: Any = None, models: int = 4) -> ShadowModels:
    return train_shadows(recipe, parts.records(42), models, 0, parts.records(9, seed=1), way=way)


# Halves and batches


@pytest.mark.parametrize(("records", "models"), [(10, 2), (42, 6), (1300, 64)])
def test_every_record_is_in_half_of_the_models(records: int, models: int) -> None:
    inside = halves(records, models, seed=3)
    assert (inside.sum(0) == models // 2).all()
    assert (inside.sum(1) == records // 2).all()
    assert (inside[::2] != inside[1::2]).all()
    assert (inside == halves(records, models, seed=3)).all()
    assert (inside != halves(records, models, seed=4)).any()


def test_halves_are_random() -> None:
    first = halves(20, 2000, seed=0)[::2]
    shares, pairs = first.mean(0), (first[:, 0] & first[:, 1]).mean()
    assert abs(shares - 0.5).max() < 4 * 0.5 / math.sqrt(1000)
    assert abs(pairs - 0.5 * 9 / 19) < 4 * 0.43 / math.sqrt(1000)


def test_an_epoch_goes_once_through_a_models_half(parts) -> None:
    members = np.stack([np.arange(21), np.arange(21, 42)])
    job = Job(parts.recipe(epochs=2), parts.records(42), (), members, seed=0)
    for number in (0, 1):
        steps = list(job.batches(number))
        assert [len(step) for step in steps] == [8, 8, 5, 8, 8, 5]
        first, second = np.concatenate(steps[:3]), np.concatenate(steps[3:])
        assert sorted(first) == sorted(second) == members[number].tolist()
        assert (first != second).any()
    assert (np.concatenate(list(job.batches(0))) + 21 != np.concatenate(list(job.batches(1)))).any()
    weights = [next(job.fresh(number).parameters()) for number in (0, 1)]
    assert not torch.equal(*weights)


# Ways


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("at_once", [64, 3])
def test_stacked_models_are_those_of_a_loop(parts, optimizer: str, at_once: int) -> None:
    recipe = parts.recipe(optimizer=getattr(parts, optimizer), lr=0.05, epochs=5)
    loop, stack = (trained(parts, recipe, way) for way in (one_by_one(), stacked(at_once)))
    assert stack.phi == pytest.approx(loop.phi, abs=1e-9)
    assert stack.population == pytest.approx(loop.population, abs=1e-9)
    assert (stack.inside == loop.inside).all()
    assert stack.way == f"stacked, {min(4, at_once)} at once"


def test_the_loop_is_an_ordinary_training(parts) -> None:
    """Against the few lines anybody would write, with the batches of the job."""
    shadows = trained(parts, parts.recipe(), one_by_one())
    members = np.stack([np.flatnonzero(mask) for mask in shadows.inside])
    job = Job(parts.recipe(), parts.records(42), (), members, seed=0)
    x, y = parts.records(42).tensors
    for number in range(4):
        model = job.fresh(number)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in job.batches(number):
            assert shadows.inside[number, step].all()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[step]), y[step]).backward()
            optimizer.step()
        assert shadows.phi[number] == pytest.approx(stable_logit(model(x), y), abs=1e-9)


@pytest.mark.slow
def test_processes_train_the_models_of_a_loop(parts) -> None:
    recipe = parts.recipe(parts.dropout)
    loop, found = (trained(parts, recipe, way) for way in (one_by_one(), processes(2)))
    assert (found.phi == loop.phi).all()
    assert (found.population == loop.population).all()
    assert found.way == "in 2 process(es)"


def test_digits_after_some_epochs() -> None:
    task = digits.task({})
    found = [
        train_shadows(recipe_of(task, epochs=3), task.train, 4, 1, way=way)
        for way in (automatic(), one_by_one())
    ]
    assert found[0].way.startswith("stacked, 4 at once: two models agreed")
    assert found[0].phi == pytest.approx(found[1].phi, abs=1e-4, rel=1e-5)  # float32
    assert found[0].phi.std() > 1


@pytest.mark.parametrize("model", ["plain", "batch_norm", "counting"])
def test_what_can_be_stacked_is(parts, model: str) -> None:
    recipe = parts.recipe(getattr(parts, model))
    found, loop = (trained(parts, recipe, way) for way in (None, one_by_one()))
    assert found.way == "stacked, 4 at once: two models agreed with a loop over them"
    assert found.phi == pytest.approx(loop.phi, abs=1e-9)


def test_dropout_is_stacked_with_draws_of_its_own(parts) -> None:
    recipe = parts.recipe(parts.dropout)
    found, again, loop = (trained(parts, recipe, way) for way in (None, None, one_by_one()))
    assert "in training they draw random numbers, others than one by one" in found.way
    assert (found.phi == again.phi).all()
    assert np.abs(found.phi - loop.phi).max() > 1e-3
    calm = dataclasses.replace(recipe, model=parts.plain)
    assert np.abs(found.phi - trained(parts, calm).phi).max() > 1e-3
    with pytest.raises(RuntimeError, match="random"):
        trained(parts, recipe, stacked())
    forced = trained(parts, recipe, stacked(randomness="different"))
    assert (forced.phi == found.phi).all()


def test_what_a_model_draws_depends_on_its_seed_only(parts) -> None:
    recipe, found = parts.recipe(parts.dropout, epochs=1), []
    for way in (one_by_one(), stacked(randomness="different")):
        for before in (1, 2):
            torch.manual_seed(before)
            found.append(trained(parts, recipe, way).phi)
            after = torch.initial_seed()
            assert after == before
    assert (found[0] == found[1]).all()
    assert (found[2] == found[3]).all()


def not_sendable(parts: Any, **changes: Any) -> Recipe:
    """A recipe with a function that no other process can import."""
    return parts.recipe(losses=lambda model, batch: parts.losses(model, batch), **changes)


@pytest.mark.parametrize(
    ("model", "optimizer", "why"),
    [
        ("branching", "sgd", "data-dependent control flow"),
        ("attending", "sgd", "vmap would loop over the models in aten::_scaled_dot_product"),
        ("doubling", "sgd", "trained to other weights than one by one"),
        ("noting", "sgd", "buffer 1.noted of stacked models"),
        ("stateful", "sgd", "trained to other weights than one by one"),
        ("plain", "normalised", "the optimizer is Normalised; expected one of SGD, Adam"),
        ("plain", "by_shape", "groups depend on shapes"),
    ],
)
def test_what_cannot_be_stacked_is_not(parts, model: str, optimizer: str, why: str) -> None:
    recipe = not_sendable(
        parts, model=getattr(parts, model), optimizer=getattr(parts, optimizer), epochs=1
    )
    found, loop = (trained(parts, recipe, way) for way in (automatic(), one_by_one()))
    assert found.way.startswith("one by one (not stacked: ")
    assert why in found.way
    assert "; not in processes: " in found.way
    assert (found.phi == loop.phi).all()


@pytest.mark.slow
def test_what_cannot_be_stacked_goes_to_processes(parts, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what a process would take if it were not told
    recipe = parts.recipe(parts.branching, signal=parts.threads_and_process)
    found = trained(parts, recipe, automatic(workers=1))
    assert found.way.startswith("in 1 process(es) (not stacked: ")
    assert (found.phi[:, 0] == 1).all()
    assert os.getpid() not in found.phi[:, 1]


def test_records_that_are_no_tensors_are_not_stacked(parts) -> None:
    words = [(x, int(y), "word") for x, y in parts.records(42)]
    recipe = not_sendable(parts, signal=parts.minus_loss)
    found = train_shadows(recipe, words, 4, 0, way=automatic())
    assert "a batch of all 42 records holds str; expected tensors [n, ...]" in found.way
    assert found.population.shape == (4, 0)
    as_tensors = trained(parts, parts.recipe(signal=parts.minus_loss))
    assert found.phi == pytest.approx(as_tensors.phi, abs=1e-9)


def test_a_forced_way_fails_loudly(parts) -> None:
    with pytest.raises(RuntimeError, match="control flow"):
        trained(parts, parts.recipe(parts.branching), stacked())
    with pytest.raises(ValueError, match=r"cannot be sent to another process .* one_by_one\(\)"):
        trained(parts, not_sendable(parts), processes(2))


@pytest.mark.parametrize("way", [automatic(), one_by_one()], ids=["automatic", "one by one"])
def test_a_model_that_diverges_is_refused(parts, way) -> None:
    with pytest.raises(ValueError, match=r"logits has \d+ NaN"):
        trained(parts, parts.recipe(lr=1e300), way)
    recipe = parts.recipe(lr=1e300, signal=parts.minus_loss)
    with pytest.raises(ValueError, match=r"model 0 are not finite.*learning rate 1e\+300"):
        trained(parts, recipe, way)


def test_divergence_is_no_reason_not_to_stack(parts) -> None:
    members = np.stack([np.arange(21), np.arange(21, 42)])
    assert attempt(Job(parts.recipe(lr=1e300), parts.records(42), (), members, 0))[0] == "error"


@pytest.mark.parametrize(
    ("n", "models", "ids", "said"),
    [
        (41, 4, None, "41 records; expected an even number"),
        (42, 5, None, "5 models; expected an even number"),
        (42, 0, None, "models is 0"),
        (42, 4, ["a"] * 42, "42 ids, 1 of them different, for 42 records"),
        (42, 4, ["a"], "1 ids, 1 of them different"),
    ],
)
def test_sizes_that_do_not_fit(parts, n: int, models: int, ids: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train_shadows(parts.recipe(), parts.records(n), models, 0, ids=ids)


@pytest.mark.parametrize("make", [processes, automatic, stacked])
def test_no_workers(make) -> None:
    with pytest.raises(ValueError, match="is 0; expected an integer at least 1"):
        make(0)


def test_no_epochs(parts) -> None:
    with pytest.raises(ValueError, match="epochs 0; expected at least 1"):
        parts.recipe(epochs=0)


# Attacks


@pytest.fixture(scope="module")
def memorized() -> ShadowModels:
    """Random labels, learned by heart by 16 models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        parts = import_module("shadows")
        recipe = parts.recipe(epochs=60, lr=0.05)
        names = [f"record {i}" for i in range(300)]
        return train_shadows(recipe, parts.records(300), 16, 0, parts.records(100, 1), names)


def test_holding_out_a_model_leaves_a_balanced_design(memorized) -> None:
    held = held_out(memorized, 5)
    assert (held.target == memorized.phi[5]).all()
    assert (held.coins == memorized.inside[5]).all()
    others = [i for i in range(16) if i not in (4, 5)]
    assert (held.shadows == memorized.phi[others]).all()
    assert (held.inside.sum(0) == 7).all()
    assert (held.population == memorized.population[5]).all()
    assert held.shadow_population.shape == (14, 100)


def test_attacks_tell_who_was_trained_on_what(memorized) -> None:
    held = held_out(memorized, 0)
    given = (held.target, held.shadows, held.inside)
    assert auc(lira_online(*given), held.coins).low > 0.6
    assert auc(lira_offline(*given), held.coins).low > 0.55
    log_p = [-np.log1p(np.exp(-phi)) for phi in given[:2]]
    rmia = rmia_offline(log_p[0], log_p[1], held.inside, held.compared())
    assert auc(rmia, held.coins).low > 0.55


def test_signals_that_do_not_depend_on_the_halves_tell_nothing() -> None:
    """Six models only, so that a design that were not balanced would show."""
    areas = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        phi = rng.normal(size=(6, 400)) + rng.normal(size=400)
        inside = halves(400, 6, seed)
        shadows = ShadowModels(tuple(map(str, range(400))), phi, inside, phi[:, :0], "drawn")
        held = held_out(shadows, 0)
        areas.append(auc(lira_online(held.target, held.shadows, held.inside), held.coins).estimate)
    assert abs(np.mean(areas) - 0.5) < 3.3 * null_sd(200, 200) / math.sqrt(300)


def test_one_pair_cannot_be_held_out(parts) -> None:
    with pytest.raises(ValueError, match="2 shadow models; expected more"):
        held_out(trained(parts, parts.recipe(epochs=1), models=2), 0)
    with pytest.raises(ValueError, match="number is 4"):
        held_out(trained(parts, parts.recipe(epochs=1)), 4)


def target_of(
    memorized: ShadowModels, parts: Any, epochs: int
) -> tuple[dict[str, float], dict[str, bool]]:
    """A model of one's own, and its coins."""
    coins = np.random.default_rng(9).random(300) < 0.5
    job = Job(
        parts.recipe(epochs=epochs, lr=0.05),
        parts.records(300),
        (),
        np.flatnonzero(coins)[None],
        seed=9,
    )
    phi = stable_logit(train(job, 0)(job.records.tensors[0]), job.records.tensors[1])
    names = memorized.ids
    return dict(zip(names, phi, strict=True)), dict(zip(names, coins.tolist(), strict=True))


def test_a_row_of_scalars(memorized, parts) -> None:
    phi, coins = target_of(memorized, parts, epochs=60)
    found = row(memorized, phi, coins)
    assert list(found) == ["attack", "auc", "auc_low", "auc_high", "tpr_at_1pct", "fpr_realized"]
    assert found["attack"] == "lira online"
    assert 0.6 < found["auc_low"] < found["auc"] < found["auc_high"]
    assert found["fpr_realized"] == 1 / (300 - sum(coins.values()))
    shuffled = dict(reversed(phi.items()))
    assert row(memorized, shuffled, dict(reversed(coins.items()))) == found


def test_a_row_without_enough_non_members_has_no_rate(memorized, parts) -> None:
    phi, coins = target_of(memorized, parts, epochs=1)
    out = [name for name, coin in coins.items() if not coin]
    fewer = coins | dict.fromkeys(out[99:], True)
    found = row(memorized, phi, fewer)
    assert math.isnan(found["tpr_at_1pct"])
    assert math.isnan(found["fpr_realized"])
    assert math.isfinite(found["auc"])


def test_a_row_is_joined_by_id(memorized, parts) -> None:
    phi, coins = target_of(memorized, parts, epochs=1)
    with pytest.raises(ValueError, match=r"'new'.*not among the 300"):
        row(memorized, phi | {"new": 1.0}, coins)
    with pytest.raises(ValueError, match="1 ids, as 'new', have a coin"):
        row(memorized, phi, coins | {"new": True})
    del phi["record 7"]
    with pytest.raises(ValueError, match=r"'record 7'.*without a score"):
        row(memorized, phi, coins)
