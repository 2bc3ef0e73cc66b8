"""Settings of speed and memory change how sums are taken, not what they are."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dpclip import PrivacyEngine, by_key, clip, clip_to_min, micro_batches, per_core, per_sample
from dpclip.groups import groups_of
from dpclip.parts import Formed, Outer
from dpclip.speed import Chooser, forming_pays

PLANS = [("fast", False), ("fast", True), ("low", False), (3000, False), (0, False), (3000, True)]
GROUPINGS = [per_sample(), micro_batches(3), micro_batches(2, slots="random"), per_core(2)]


def models(kit):
    return {
        "mlp": (kit.Mlp, kit.vectors),
        "convolutions": (kit.ConvNet, kit.images),
        "tied": (kit.Transformer, kit.texts),
    }


@pytest.mark.parametrize("name", ["mlp", "convolutions", "tied"])
@pytest.mark.parametrize("memory, measure", PLANS)
def test_every_plan_equals_the_loop(kit, name, memory, measure):
    model, data = models(kit)[name]
    for grouping in (*GROUPINGS, by_key(lambda i: i % 3)):
        for weighting in (clip(0.2), clip_to_min()):
            trained = kit.private(
                model(),
                data(),
                memory=memory,
                measure=measure,
                grouping=grouping,
                weighting=weighting,
            )
            kit.agree(trained, steps=2)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "tied"])
def test_plans_agree_in_single_precision(kit, name):
    torch.set_default_dtype(torch.float32)
    model, data = models(kit)[name]
    model, data = model(), data()
    found = []
    for memory, measure, loop in [(*plan, False) for plan in PLANS] + [("fast", False, True)]:
        torch.manual_seed(1)
        trained = kit.private(
            copy.deepcopy(model),
            data,
            memory=memory,
            measure=measure,
            loop=loop,
            weighting=clip(0.2),
        )
        x, y = next(iter(trained.loader))
        kit.mean_loss(trained.model(x), y).backward()
        found.append(torch.cat([g.flatten() for g in trained.grads]))
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-5 * found[0].norm()


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_invalid_rows_are_left_out_by_every_plan(kit, memory):
    """A sample with an infinite input adds nothing, whether rows are formed or not."""
    for model, x in (
        (kit.Mlp(), torch.randn(8, 6)),
        (nn.Sequential(kit.ConvNet()), torch.randn(8, 2, 7, 6)),
    ):
        data = TensorDataset(x, torch.randint(5, (8,)))
        trained = kit.private(
            model, data, batch_size=8, memory=memory, weighting=clip(0.2), poisson_sampling=False
        )
        xs, ys = next(iter(trained.loader))
        good = torch.arange(8) != 3
        wanted = trained.twin.update(xs[good], ys[good], torch.arange(7), None)
        xs[3].view(-1)[0] = float("inf")
        kit.mean_loss(trained.model(xs), ys).backward()
        kit.close(trained.grads, [w * 7 / 8 for w in wanted])
        trained.optimizer.step()
        assert trained.engine.diagnostics().invalid == 1


def test_rows_stay_within_the_bytes_given(kit):
    for limit, formed in ((0, 0), (8_000, 1), (10**6, 2)):
        trained = kit.private(
            kit.ConvNet(),
            kit.images(),
            memory=limit,
            weighting=clip(0.2),
            poisson_sampling=False,
        )
        kit.agree(trained, steps=1)
        kernels = [trained.model.layers[i].weight for i in (0, 3)]
        made = [trained.inner.chooser.made[p] for p in kernels]
        assert sum(choice.bytes for choice in made) <= limit
        assert sum(choice.formed for choice in made) == formed


def test_low_memory_forms_what_is_smaller_formed():
    wide = Outer(torch.randn(4, 50, 8), torch.randn(4, 50, 8), groups_of(torch.arange(4)))
    narrow = Outer(torch.randn(4, 2, 80), torch.randn(4, 2, 80), groups_of(torch.arange(4)))
    for part, i, formed in ((wide, 8, True), (narrow, 80, False)):
        param = nn.Parameter(torch.empty(i, i))
        choice = Chooser("low").choose(param, part, 4, lambda: torch.empty(0))
        assert (choice.formed, choice.bytes > 0) == (formed, formed)


def test_choice_by_shapes():
    """One position per group never forms rows; many positions of a small matrix do."""
    one = groups_of(torch.arange(64))
    assert not forming_pays(Outer(torch.randn(64, 1, 128), torch.randn(64, 1, 128), one))
    assert forming_pays(Outer(torch.randn(64, 128, 32), torch.randn(64, 128, 32), one))
    assert forming_pays(Formed(torch.randn(4, 3)))


@pytest.mark.parametrize("memory", ["slow", -1, 1.5, True, None])
def test_unknown_memory(memory):
    with pytest.raises(ValueError, match='expected "fast", "low" or bytes'):
        PrivacyEngine(memory=memory)


def test_plan_shows_time_only_where_it_was_measured(kit):
    for measure in (False, True):
        trained = kit.private(kit.Mlp(), kit.vectors(), measure=measure, weighting=clip(0.2))
        kit.agree(trained, steps=1)
        first = trained.engine.plan().splitlines()[2].split()
        assert first[:3] == ["layers.0", "Linear", "49"]
        choice = trained.inner.chooser.made[trained.model.layers[0].weight]
        assert (choice.seconds is not None) == measure
        # Only the first layer's row: what the other layer chose is its own affair.
        assert (first[6] == "formed") == choice.formed


def test_checkpoint_keeps_the_plan(kit):
    """Whatever would be chosen again, the run goes on as it began."""
    made = kit.private(kit.Mlp(), kit.vectors(), memory=10**6, weighting=clip(0.2))
    kit.agree(made, steps=1)
    state = made.engine.state_dict()
    assert set(state["plan"]) == {"layers.0.weight", "layers.2.weight"}
    state["plan"] = {name: not formed for name, formed in state["plan"].items()}
    other = kit.private(kit.Mlp(), kit.vectors(), memory=10**6, weighting=clip(0.2))
    other.engine.load_state_dict(state)
    kit.agree(other, steps=1)
    assert other.engine.state_dict()["plan"] == state["plan"]


def test_buffers_are_reused_and_given_back(kit):
    """Memory for rows is taken once; a smaller batch lies in it, and close() returns it."""
    trained = kit.private(kit.ConvNet(), kit.images(), weighting=clip(0.2), poisson_sampling=False)
    kept = trained.inner._buffers._kept
    kit.agree(trained, steps=1)
    where = {p: t.data_ptr() for p, t in kept.items()}
    assert where
    kit.agree(trained, steps=4)
    assert {p: t.data_ptr() for p, t in kept.items()} == where
    trained.engine.close()
    assert not kept


def test_uneven_last_batch(kit):
    data = kit.vectors(13)
    trained = kit.private(
        kit.Mlp(), data, batch_size=8, weighting=clip(0.2), poisson_sampling=False
    )
    kit.agree(trained, steps=4)


@pytest.mark.parametrize("memory, loop", [("fast", False), ("low", False), ("fast", True)])
def test_a_thousand_steps_keep_nothing(kit, memory, loop):
    """Neither tensors nor their memory pile up, whatever the batches' sizes."""
    trained = kit.private(
        kit.ConvNet(), kit.images(16), batch_size=4, memory=memory, loop=loop, weighting=clip(0.2)
    )

    def held():
        gc.collect()
        # Other tests may have left tensors without memory behind.
        found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
        found = [tensor for tensor in found if torch._C._has_storage(tensor)]
        return len(found), sum({t.data_ptr(): t.nbytes for t in found}.values())

    seen, taken = [], 0
    while taken < 1000:
        for x, y in trained.loader:
            trained.optimizer.zero_grad()
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()
            taken += 1
            del x, y
        if taken in (500, 1000):
            trained.engine.diagnostics()  # holds the last step's few numbers
            seen.append(held())
    few = 8 * 16 * 40  # the statistics of one step more or less
    assert seen[1][0] - seen[0][0] <= 30
    assert seen[1][1] - seen[0][1] <= few


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda g: g.label)
def test_batches_of_fixed_shape(kit, grouping, loop):
    """Every physical batch has the same number of rows, and padding changes no parameter."""
    model, data = kit.Mlp(), kit.vectors()
    made = [
        kit.private(
            copy.deepcopy(model),
            data,
            loop=loop,
            grouping=grouping,
            weighting=clip(0.2),
            max_physical_batch=5,
            fixed_shape=fixed,
        )
        for fixed in (False, True)
    ]
    sizes = []
    for trained in made:
        for x, y in trained.loader:
            sizes.append(len(x))
            trained.optimizer.zero_grad()
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()
    assert set(sizes[len(sizes) // 2 :]) == {5} and len(set(sizes)) > 1
    plain, padded = ([p.detach() for p in t.model.parameters()] for t in made)
    kit.close(padded, plain)


def test_fixed_shape_needs_a_size(kit):
    with pytest.raises(ValueError, match="fixed_shape=True pads Poisson batches"):
        kit.private(kit.Mlp(), kit.vectors(), weighting=clip(0.2), fixed_shape=True)


def test_measured_memory_is_given_back(kit):
    """A layer that is not formed keeps no buffer, however it was decided."""
    trained = kit.private(kit.ConvNet(), kit.images(), memory=0, measure=True, weighting=clip(0.2))
    kit.agree(trained, steps=1)
    assert not trained.inner._buffers._kept


def test_half_precision_norms_are_those_of_the_rows():
    """Gram matrices of half precision numbers are formed in single precision."""
    torch.set_default_dtype(torch.float32)
    a = (torch.randn(8, 4, 64) + 10).bfloat16()
    part = Outer(a, torch.randn(8, 4, 64).bfloat16(), groups_of(torch.arange(8)))
    exact = torch.bmm(part.g.double().transpose(1, 2), a.double()).square().sum((1, 2))
    assert torch.allclose(part.squares().double(), exact, rtol=1e-4)


def test_slots_of_any_integer_type():
    slots = torch.tensor([0, 0, 1, 1, 2, 2])
    assert groups_of(slots.int()).lengths == groups_of(slots).lengths == [2, 2, 2]
