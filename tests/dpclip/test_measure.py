import pytest
import torch
from torch import Tensor, nn

from dpclip.measure import gradient_norms


class Net(nn.Module):
    """A shared layer, a frozen one, and one that a record may not use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.twice = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.twice(torch.tanh(self.twice(self.table(tokens)))).mean(1)
        return self.head(self.frozen(hidden))


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randint(5, (7, 6)), torch.randint(3, (7,))


def one_by_one(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for i in range(len(batch[0])):
        grads = torch.autograd.grad(
            losses(model, (batch[0][i : i + 1], batch[1][i : i + 1])), trained
        )
        found.append(torch.cat([g.flatten() for g in grads]).norm())
    return torch.stack(found)


def test_norms_are_those_of_each_record_alone(batch: tuple[Tensor, Tensor]) -> None:
    model = Net()
    assert torch.allclose(gradient_norms(model, losses, batch), one_by_one(model, batch))


def test_one_record(batch: tuple[Tensor, Tensor]) -> None:
    model = Net()
    alone = (batch[0][:1], batch[1][:1])
    assert torch.allclose(gradient_norms(model, losses, alone), one_by_one(model, alone))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(batch: tuple[Tensor, Tensor], training: bool) -> None:
    model = Net().train(training)
    model.head.weight.grad = torch.full_like(model.head.weight, 3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradient_norms(model, losses, batch)
    assert model.training is training
    assert torch.equal(model.head.weight.grad, torch.full_like(model.head.weight, 3.0))
    assert model.twice.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    losses(model.train(), batch).mean().backward()  # no hook takes the gradient away
    assert model.twice.weight.grad is not None


def test_hooks_are_gone_after_an_error(batch: tuple[Tensor, Tensor]) -> None:
    model = Net()

    def fails(module: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        module(given[0])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gradient_norms(model, fails, batch)
    assert torch.allclose(gradient_norms(model, losses, batch), one_by_one(model, batch))
