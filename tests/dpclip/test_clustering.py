"""Clusters of features: what k-means finds, and how the engine asks for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch._subclasses.fake_tensor import FakeTensorMode

from dpclip import clip, clip_to_min, clusters
from dpclip.clustering import grouped, lloyd
from dpclip.limits import Limits
from dpclip.refusals import check_features
from dpclip.streams import Seeded


def _stream(seed: int = 0) -> Seeded:
    return Seeded(np.random.SeedSequence(seed))


def _blobs(count: int = 4, each: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """[count * each, 3] points around far centres, in random order, and which centre."""
    which = torch.arange(count).repeat(each)[torch.randperm(count * each)]
    centres = 100 * torch.eye(count, 3) + 50 * torch.arange(count)[:, None]
    return centres[which] + torch.randn(count * each, 3), which


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two partitions are one, whatever their numbers."""
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


def _inertia(x: torch.Tensor, found: torch.Tensor) -> float:
    parts = (x[found == c] for c in found.unique())
    return float(sum((part - part.mean(0)).square().sum() for part in parts))


@pytest.mark.parametrize("cluster", [grouped, lloyd])
def test_blobs_are_found(cluster):
    x, which = _blobs()
    assert any(_same(cluster(x, 4, _stream(s)), which) for s in range(2))


def test_the_way_for_gpus_is_as_good_as_scikit_learn():
    """Median over seeds of the inertia, since both start at random."""
    x = torch.randn(200, 5)
    mine = np.median([_inertia(x, lloyd(x, 8, _stream(s))) for s in range(9)])
    theirs = np.median(
        [KMeans(8, n_init=1, random_state=s).fit(x.numpy()).inertia_ for s in range(9)]
    )
    assert mine < 1.05 * theirs


def test_the_way_for_gpus_waits_for_nothing():
    """Tensors without values cannot be asked for one."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert lloyd(torch.randn(30, 4), 5, _stream()).shape == (30,)


def test_same_seed_same_clusters():
    x = torch.randn(60, 4)
    for cluster in (grouped, lloyd):
        assert torch.equal(cluster(x, 5, _stream(1)), cluster(x, 5, _stream(1)))
        found = [cluster(x, 5, _stream(s)) for s in range(6)]
        assert not all(_same(found[0], other) for other in found[1:])


def test_odd_features():
    alike = torch.ones(6, 2)  # fewer distinct samples than clusters
    assert len(grouped(alike, 3, _stream()).unique()) == 1
    assert len(lloyd(alike, 3, _stream()).unique()) == 1
    few = torch.randn(2, 2)
    assert sorted(grouped(few, 5, _stream()).tolist()) == [0, 1]
    broken = torch.randn(5, 2)
    broken[1, 0], broken[3, 1] = torch.nan, torch.inf
    assert (grouped(broken, 2, _stream()) == 2).tolist() == [False, True, False, True, False]
    assert (grouped(broken, 1, _stream()) == 1).tolist() == [False, True, False, True, False]
    assert grouped(torch.zeros(0, 3), 2, _stream()).tolist() == []


class Known(torch.nn.Module):
    """A layer whose output tells the cluster, before one that learns."""

    def __init__(self, kit) -> None:
        super().__init__()
        self.seen, self.layers = torch.nn.Identity(), kit.Mlp()

    def forward(self, x):
        return self.layers(self.seen(x))


@pytest.mark.parametrize("by", ["name", "module"])
@pytest.mark.parametrize("rule", [clip(0.3), clip_to_min()], ids=["clip", "min"])
def test_the_engine_groups_by_features(kit, rule, by):
    model, data = Known(kit), kit.vectors()
    data.tensors[0][:, 0] += 1000 * torch.arange(len(data)).remainder(3)
    which = "seen" if by == "name" else model.seen
    trained = kit.private(
        model, data, batch_size=12, weighting=rule, grouping=clusters(3, features=which)
    )
    for x, y in trained.loader:
        slots = (x[:, 0] / 1000).round().long()
        kit.mean_loss(trained.model(x), y).backward()
        kit.close(trained.grads, trained.twin.update(x, y, slots, None))
        trained.optimizer.step()
        trained.twin.follow(trained.model)
    assert len(trained.engine.diagnostics().norms) == 3


def test_number_of_clusters_follows_the_batch(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), weighting=clip(1.0), grouping=clusters(per=4, features="layers")
    )
    counts = set()
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        found = len(trained.engine.diagnostics().norms)
        assert found == max(1, len(x) // 4)
        counts.add(found)
    assert len(counts) > 1


def test_the_same_batch_twice_has_the_same_clusters(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), weighting=clip(1e9), grouping=clusters(3, features="layers.0")
    )
    x, y = next(iter(trained.loader))
    out = trained.model(x)
    kit.mean_loss(out, y).backward(retain_graph=True)
    once = trained.grads
    trained.inner._forget()
    kit.mean_loss(out, y).backward()
    kit.close(trained.grads, once, 1e-12)


def test_evaluation_leaves_the_features_alone(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), weighting=clip(1.0), grouping=clusters(2, features="layers.0")
    )
    x, y = next(iter(trained.loader))
    loss = kit.mean_loss(trained.model(x), y)
    with torch.no_grad():
        trained.model(torch.randn(3, 6))
    loss.backward()
    trained.optimizer.step()
    assert int(trained.engine.diagnostics().norms.numel()) == 2
    trained.engine.close()
    assert not trained.model.layers[0]._forward_hooks


def test_another_batch_axis(kit):
    class Time(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(x)

    which = torch.tensor([0, 0, 1, 0, 1, 1, 1, 0])
    data = torch.utils.data.TensorDataset(torch.randn(8, 5, 3) + 100 * which[:, None, None])
    trained = kit.private(
        Time(),
        data,
        weighting=clip(1.0),
        batch_first=False,
        poisson_sampling=False,
        grouping=clusters(2, features="layer"),
    )
    for (x,) in trained.loader:
        trained.model(x.transpose(0, 1)).square().sum((0, 2)).mean().backward()
        trained.optimizer.step()
        slots = trained.inner.yielded.features._slots
        assert _same(slots, which)


def test_what_is_refused(kit):
    for wrong in ({}, {"k": 3, "per": 4}, {"k": 0}, {"per": 0}):
        with pytest.raises(ValueError, match=r"clusters\("):
            clusters(**wrong, features="layers")
    make = clusters(2, features="layers")
    for how, text in (
        ({"grouping": clusters(2, features="nothing")}, "'nothing' is no module of the model"),
        ({"grouping": clusters(2, features=torch.nn.Linear(2, 2))}, "the Linear is no module"),
        ({"grouping": make, "max_physical_batch": 4}, "max_physical_batch=4 cuts it"),
        ({"grouping": make, "loop": True}, "loop=True runs the model"),
    ):
        with pytest.raises(ValueError, match=text):
            kit.private(kit.Mlp(), kit.vectors(), weighting=clip(1.0), **how)
    with pytest.raises(ValueError, match="a rank sees a share of it"):
        check_features(make, several=True, limits=Limits(), loop=False)
    with pytest.warns(UserWarning, match="does not look at the data"):
        trained = kit.private(
            kit.Mlp(), kit.vectors(), weighting=clip(1.0), grouping=make, noise_multiplier=1.0
        )
    assert trained.engine.get_epsilon(1e-5) == float("inf")
    assert "may move all others" in trained.engine.guarantee


def test_features_that_do_not_fit(kit):
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.unused, self.pooled = kit.Mlp(), torch.nn.Identity(), Pooled()

        def forward(self, x):
            out = self.body(x)
            self.pooled(out)
            return out

    class Pooled(torch.nn.Module):
        def forward(self, x):
            return x.mean(0)

    for name, text in (("unused", "did not run in this forward"), ("pooled", r"returned \(5,\)")):
        trained = kit.private(
            Odd(), kit.vectors(), weighting=clip(1.0), grouping=clusters(2, features=name)
        )
        x, y = next(iter(trained.loader))
        with pytest.raises(RuntimeError, match=text):
            kit.mean_loss(trained.model(x), y).backward()


def test_a_part_of_a_batch(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), weighting=clip(1.0), grouping=clusters(2, features="layers")
    )
    x, y = next(iter(trained.loader))
    with pytest.raises(RuntimeError, match="Pass the whole batch"):
        kit.mean_loss(trained.model(x[:2]), y[:2]).backward()


def test_features_of_an_earlier_forward_are_not_taken_for_this_ones(kit):
    """A module that runs now and then: batches are of one length, so the rows would fit."""

    class Sometimes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.seen, self.runs = kit.Mlp(), torch.nn.Identity(), True

        def forward(self, x):
            out = self.body(x)
            return self.seen(out) if self.runs else out

    trained = kit.private(
        Sometimes(),
        kit.vectors(),
        weighting=clip(1.0),
        grouping=clusters(2, features="seen"),
        poisson_sampling=False,
    )
    (x, y), (more, others) = itertools.islice(trained.loader, 2)
    kit.mean_loss(trained.model(x), y).backward()
    trained.optimizer.step()
    trained.model.runs = False
    with pytest.raises(RuntimeError, match="did not run in this forward"):
        kit.mean_loss(trained.model(more), others).backward()


@pytest.mark.parametrize("wrong", [0, 2.5, True, float("nan")])
def test_numbers_of_clusters_that_are_none(wrong):
    for name in ("k", "per"):
        with pytest.raises(ValueError, match=rf"clusters\({name}=.*expected a whole number"):
            clusters(**{name: wrong}, features="x")
