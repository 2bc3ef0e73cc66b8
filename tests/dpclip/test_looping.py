"""The loop over groups equals its twin, whatever the model does with its weights."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpclip import PrivacyEngine, by_key, clip, clip_to_min, micro_batches, per_core, per_sample

GROUPINGS = [
    per_sample(),
    micro_batches(3),
    micro_batches(2, slots="random"),
    per_core(2),
    by_key(lambda i: i % 3),
]


@pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda g: g.label)
@pytest.mark.parametrize("weighting", [clip(0.2), clip_to_min()], ids=lambda w: w.label)
@pytest.mark.parametrize("name", ["mlp", "convolutions", "tied"])
def test_equals_the_twin(kit, name, grouping, weighting):
    model, data = {
        "mlp": (kit.Mlp, kit.vectors),
        "convolutions": (kit.ConvNet, kit.images),
        "tied": (kit.Transformer, kit.texts),
    }[name]
    trained = kit.private(model(), data(), loop=True, grouping=grouping, weighting=weighting)
    kit.agree(trained)


@pytest.mark.parametrize("limit", [2, 5])
def test_physical_batches(kit, limit):
    """Groups cut over several physical batches add up, empty batches step too."""
    data = kit.vectors()
    trained = [
        kit.private(
            model,
            data,
            loop=loop,
            grouping=micro_batches(4),
            weighting=clip(0.2),
            max_physical_batch=limit,
        )
        for model, loop in zip(twins(kit.Mlp), (True, False), strict=True)
    ]
    for made in trained:
        for x, y in made.loader:
            made.optimizer.zero_grad()
            kit.mean_loss(made.model(x), y).backward()
            made.optimizer.step()
    ours, other = (list(made.model.parameters()) for made in trained)
    kit.close([p.detach() for p in ours], [p.detach() for p in other])


def twins(build):
    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    return first, second


def test_empty_batches(kit):
    """A step of the mechanism is taken, and nothing is learned from the padding row."""
    trained = kit.private(
        kit.Mlp(), kit.vectors(4), batch_size=1, loop=True, weighting=clip(0.2), lr=1.0
    )
    empty = 0
    for x, y in itertools.chain.from_iterable(itertools.repeat(trained.loader, 10)):
        trained.optimizer.zero_grad()
        kit.mean_loss(trained.model(x), y).backward()
        if not trained.inner.yielded.piece.real.any():
            empty += 1
            assert all(not g.any() for g in trained.grads)
        trained.optimizer.step()
    assert empty and trained.engine.steps == 40


class Unusual(nn.Module):
    """Weights as plain tensors, tied by hand, a bare parameter, dropout of a layer nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        hidden, _ = self.lstm(F.dropout(self.table(x), 0.0) * self.scale)
        return F.linear(hidden, self.table.weight)


def test_model_no_rule_captures(kit):
    trained = kit.private(Unusual(), kit.texts(), loop=True, weighting=clip(0.2))
    kit.agree(trained)
    assert "once for each group" in trained.engine.plan()


class Pair(nn.Module):
    """Outputs in a dict, the second with the batch in the middle; a flag beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x, *, twice):
        out = self.layer(x)
        return {"out": out, "turned": torch.stack([out, out]), "flag": twice}


def test_outputs_in_containers_and_keywords(kit):
    trained = kit.private(
        Pair(), kit.vectors(), loop=True, grouping=micro_batches(2), weighting=clip(0.2)
    )
    x, y = next(iter(trained.loader))
    found = trained.model(x, twice=True)
    plain = trained.twin.model(x, twice=True)
    assert found["flag"] is True
    assert torch.allclose(found["turned"], plain["turned"])
    (F.cross_entropy(found["out"], y) + found["turned"].square().sum((0, 2)).mean()).backward()

    def loss(out, y):
        return F.cross_entropy(out["out"], y) + out["turned"].square().sum((0, 2)).mean()

    trained.twin.loss = loss
    trained.twin.model.forward = lambda x: Pair.forward(trained.twin.model, x, twice=True)
    kit.close(trained.grads, trained.expected(x, y))


def test_mean_over_the_batch_raises(kit):
    class Mean(kit.Mlp):
        def forward(self, x):
            return super().forward(x).mean()

    trained = kit.private(Mean(), kit.vectors(), loop=True, weighting=clip(0.2))
    x, _ = next(iter(trained.loader))
    with pytest.raises(RuntimeError, match=r"no axis holds them.*mean over the batch"):
        trained.model(x)


def test_part_of_a_batch_raises(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), loop=True, weighting=clip(0.2))
    x, _ = next(iter(trained.loader))
    with pytest.raises(RuntimeError, match="Pass the whole batch"):
        trained.model(x[:-1])


def test_batch_of_unknown_origin_voids_the_guarantee(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), loop=True, noise_multiplier=1.0, weighting=clip(0.2)
    )
    x, y = torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)
    kit.mean_loss(trained.model(x), y).backward()
    trained.optimizer.step()
    assert "did not come from the loader" in trained.engine.guarantee


def test_evaluation_and_close_leave_no_trace(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), loop=True, weighting=clip(0.2))
    names = set(trained.model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(trained.model.eval()(x), trained.twin.model(x))
    trained.engine.close()
    assert "forward" not in vars(trained.model)
    assert set(trained.model.state_dict()) == names
    trained.model.train()(x).sum().backward()
    assert all(p.grad is not None for p in trained.model.parameters())


def test_two_backwards_through_one_graph(kit):
    trained = kit.private(kit.Mlp(), kit.vectors(), loop=True, weighting=clip(0.2))
    x, y = next(iter(trained.loader))
    wanted = trained.expected(x, y)
    loss = kit.mean_loss(trained.model(x), y)
    loss.backward(retain_graph=True)
    kit.close(trained.grads, wanted)
    loss.backward()
    kit.close(trained.grads, [2 * w for w in wanted])


def test_forward_that_was_replaced_already():
    model = nn.Linear(2, 2)
    model.forward = lambda x: x
    data = DataLoader(TensorDataset(torch.zeros(4, 2)), batch_size=2)
    with pytest.raises(ValueError, match="forward of its own instance"):
        PrivacyEngine(loop=True).make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=data,
            noise_multiplier=0.0,
            max_grad_norm=1.0,
        )


def test_gradients_past_the_model_raise(kit):
    """In eval mode, by a child, by a penalty on the weights: nothing trains unclipped."""
    trained = kit.private(kit.Mlp(), kit.vectors(), loop=True, weighting=clip(0.2))
    x, y = next(iter(trained.loader))
    trained.model.eval()
    with pytest.raises(RuntimeError, match="in eval mode"):
        kit.mean_loss(trained.model(x), y).backward()
    trained.model.train()
    with pytest.raises(RuntimeError, match="no layer captured"):
        trained.model.layers(x).sum().backward()
    with pytest.raises(RuntimeError, match="no layer captured"):
        trained.model.layers[0].weight.square().sum().backward()
    trained.engine.close()
    trained.model.layers[0].weight.square().sum().backward()


def test_second_backward_voids_the_guarantee(kit):
    for twice in (False, True):
        trained = kit.private(
            kit.Mlp(), kit.vectors(), loop=True, noise_multiplier=1.0, weighting=clip(0.2)
        )
        x, y = next(iter(trained.loader))
        first, second = (kit.mean_loss(trained.model(x), y) for _ in range(2))
        first.backward()
        if twice:
            second.backward()
        trained.optimizer.step()
        assert (trained.engine.get_epsilon(1e-5) == float("inf")) == twice


def test_mask_that_could_be_samples_raises(kit):
    class Masked(kit.Mlp):
        def forward(self, x, mask):
            return super().forward(x) * mask.sum()

    trained = kit.private(Masked(), kit.vectors(), loop=True, weighting=clip(0.2))
    x, _ = next(iter(trained.loader))
    trained.model(x, torch.ones(1, len(x), len(x)))
    with pytest.raises(RuntimeError, match="a mask that all share"):
        trained.model(x, torch.ones(len(x), len(x)))
