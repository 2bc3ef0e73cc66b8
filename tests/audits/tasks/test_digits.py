import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from audits.tasks.digits import CLASSES, SHAPE, accuracy, cross_entropies, load, task


def rows(data: TensorDataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.tensors[0]}


def test_the_parts_are_all_digits_and_disjoint() -> None:
    parts = load()
    assert [len(part) for part in parts] == [1300, 150, 120, 227]
    assert sum(map(len, parts)) == 1797
    seen = [rows(part) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1797
    for part in parts:
        images, labels = part.tensors
        assert images.shape[1:] == SHAPE
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1
        assert set(labels.tolist()) == set(range(CLASSES))


def test_the_split_is_the_same_every_time() -> None:
    assert all(torch.equal(a.tensors[0], b.tensors[0]) for a, b in zip(load(), load(), strict=True))


def test_the_model_is_decided_by_the_seed_and_leaves_the_generator_alone() -> None:
    made = task({})
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = made.model(0), made.model(0), made.model(1)
    assert torch.equal(torch.rand(1), expected)
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


def test_recipes_get_the_data_and_become_families() -> None:
    made = task({"mine": lambda data: lambda n, _rng: [data.pool[i] for i in range(n)]}, 7)
    family = made.families["mine"]
    assert family.references == 7
    drawn = family.draw(3, np.random.default_rng(0))
    assert torch.equal(drawn[2][0], load().pool[2][0])


def test_losses_are_those_of_each_record() -> None:
    made = task({})
    model, (images, labels) = made.model(0), made.train[:5]
    found = cross_entropies(model, (images, labels))
    alone = [cross_entropies(model, (images[i : i + 1], labels[i : i + 1])) for i in range(5)]
    assert found.shape == (5,)
    assert torch.allclose(found, torch.cat(alone))


def test_accuracy_counts_right_labels() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    logits = torch.eye(4)
    assert accuracy(Fixed(), TensorDataset(logits, torch.tensor([0, 1, 2, 0]))) == 0.75


def test_a_few_epochs_learn_the_digits() -> None:
    made = task({})
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    for _ in range(2):
        for batch in torch.utils.data.DataLoader(made.train, made.batch_size):
            optimizer.zero_grad()
            made.losses(model, batch).mean().backward()
            optimizer.step()
    assert made.evaluate(model, made.test) > 0.8
    assert made.evaluate(made.model(0), made.test) == pytest.approx(0.1, abs=0.1)
