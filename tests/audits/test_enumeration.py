import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from audits.enumeration import LARGEST_SPACE, enumerate_losses, index_of, space_size
from audits.exposure import exact

VOCABULARY = 12


class Recurrent(nn.Module):
    """A tiny language model that also records how many prefixes it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.recur = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)
        self.seen = 0
        self.batches: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen += len(tokens)
        self.batches.append(len(tokens))
        hidden, _ = self.recur(self.embed(tokens))
        return (3 * self.head(hidden[:, -1])).log_softmax(-1)


def slow_losses(model: nn.Module, prefix: list[int], slots: list) -> list[float]:
    """Every filling written out and scored alone, token by token."""
    alphabets = [list(slot) for slot in slots if not isinstance(slot, int)]
    losses = []
    for filling in itertools.product(*alphabets):
        secret, tokens, loss = iter(filling), list(prefix), 0.0
        for slot in slots:
            token = slot if isinstance(slot, int) else next(secret)
            if not isinstance(slot, int):
                loss -= float(model(torch.tensor([tokens]))[0, token].detach())
            tokens.append(token)
        losses.append(loss)
    return losses


@pytest.mark.parametrize(
    "slots",
    [
        [[1, 2, 3]],
        [[1, 2, 3], [1, 2, 3]],
        [5, [1, 2, 3], 7, 8, [9, 4], [0, 11, 10, 2], 6],
        [b"\x01\x03", range(4), 3, (2, 7)],
        [[4]],
    ],
)
@pytest.mark.parametrize("batch", [1, 3, 4096])
def test_against_scoring_each_filling_alone(slots: list, batch: int) -> None:
    model = Recurrent()
    losses = enumerate_losses(model, [2, 9], slots, batch=batch)
    assert losses.dtype == torch.float64
    assert losses.shape == (space_size(slots),)
    assert losses.tolist() == pytest.approx(slow_losses(model, [2, 9], slots), rel=1e-5)
    assert not losses.requires_grad


def test_prefixes_are_shared_and_batched() -> None:
    model = Recurrent()
    enumerate_losses(model, torch.tensor([2]), [range(10)] * 4, batch=256)
    assert model.seen == 1 + 10 + 100 + 1000
    assert max(model.batches) == 256


def test_losses_are_those_of_a_distribution() -> None:
    # With every token allowed in every hole the probabilities of all fillings add up to 1.
    losses = enumerate_losses(Recurrent(), [2], [range(VOCABULARY)] * 3)
    assert float((-losses.double()).exp().sum()) == pytest.approx(1, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_index_counts_fillings_in_order(data: st.DataObject) -> None:
    hole = st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True)
    some = data.draw(st.lists(st.one_of(hole, st.integers(0, 11)), max_size=4))
    slots = [*some, data.draw(hole)]
    alphabets = [slot for slot in slots if not isinstance(slot, int)]
    fillings = list(itertools.product(*alphabets))
    assert [index_of(slots, filling) for filling in fillings] == list(range(space_size(slots)))


def test_a_planted_secret_has_full_exposure() -> None:
    slots, secret = [range(10), 11, range(10), range(10)], (3, 1, 4)

    def planted(tokens: Tensor) -> Tensor:
        digits = [t for t in range(tokens.shape[1] - 1) if t != 1]
        scores = torch.zeros(len(tokens), VOCABULARY)
        scores[:, secret[len(digits)]] = 2.0
        return scores.log_softmax(-1)

    losses = enumerate_losses(planted, [0], slots)
    found = exact(losses[index_of(slots, secret)], losses)
    assert found.bits == found.ceiling == math.log2(1000)
    assert np.isclose(found.p_value, 1e-3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: enumerate_losses(m, [1], [range(10)] * 8), "audits.exposure.sampled"),
        (lambda m: enumerate_losses(m, [1], [3, 4]), "2 slots has no hole"),
        (lambda m: enumerate_losses(m, [1], [[3, 3]]), r"Hole 0 takes \[3, 3\]"),
        (lambda m: enumerate_losses(m, [1], [[3], []]), r"Hole 1 takes \[\]"),
        (lambda m: enumerate_losses(m, [], [[3, 4]]), "prefix is empty"),
        (lambda m: enumerate_losses(m, [1], [[3, 4]], batch=0), "batch is 0"),
        (lambda m: enumerate_losses(m, [1], [[3, 40]]), r"shape \(1, 12\).*V >= 41"),
        (lambda m: enumerate_losses(m, [1], [[3, -1]]), r"Hole 0 takes \[3, -1\]"),
        (lambda m: enumerate_losses(lambda t: m(t)[0], [1], [[3, 4]]), r"shape \(12,\)"),
        (lambda m: enumerate_losses(lambda t: m(t) * math.nan, [1], [[3, 4]]), "NaN"),
        (lambda m: index_of([[1, 2], [3]], [1]), "filling has 1 tokens; the format has 2 holes"),
        (lambda m: index_of([[1, 2], [3]], [1, 4]), "Hole 1 cannot take token 4"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(Recurrent())


def test_the_largest_space_is_allowed() -> None:
    assert space_size([range(10)] * 7) == LARGEST_SPACE
