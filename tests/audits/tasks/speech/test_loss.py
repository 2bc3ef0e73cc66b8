import itertools

import pytest
import torch
from torch import Tensor, nn

from audits.tasks.speech.alphabet import SIZE
from audits.tasks.speech.loss import record_losses
from audits.tasks.speech.records import collate


class Given(nn.Module):
    """Log probabilities that are given, [B, T', letters]."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        return self.scores[: len(features)].log_softmax(2)


def slow(log_probs: Tensor, labels: list[int]) -> float:
    """-log of the sum over all alignments, each of which is tried."""
    total = torch.tensor(0.0, dtype=torch.float64)
    used = sorted({0, *labels})
    for path in itertools.product(used, repeat=len(log_probs)):
        merged = [k for k, _ in itertools.groupby(path)]
        if [k for k in merged if k != 0] == labels:
            total += log_probs[range(len(path)), list(path)].double().sum().exp()
    return -total.log().item()


def batch() -> list[tuple[Tensor, Tensor]]:
    rows = ([3, 3], [5, 1, 2], [7])
    return [(torch.zeros(t, 2), torch.tensor(r)) for t, r in zip((10, 9, 5), rows, strict=True)]


def test_the_loss_is_minus_the_log_of_all_alignments_for_each_label() -> None:
    model = Given(torch.randn(3, 5, SIZE, generator=torch.Generator().manual_seed(0)))
    found = record_losses(model, collate(batch()))
    log_probs = model.scores.detach().log_softmax(2)
    for i, (features, labels) in enumerate(batch()):
        steps = -(-len(features) // 2)
        expected = slow(log_probs[i, :steps], labels.tolist()) / len(labels)
        assert found[i].item() == pytest.approx(expected, rel=1e-5)


def test_rows_of_a_batch_have_gradients_of_their_own() -> None:
    model = Given(torch.randn(3, 5, SIZE, generator=torch.Generator().manual_seed(0)))
    for i in range(3):
        model.zero_grad()
        record_losses(model, collate(batch()))[i].backward()
        assert model.scores.grad is not None
        touched = model.scores.grad.abs().sum(2) > 0
        steps = -(-len(batch()[i][0]) // 2)
        assert touched.nonzero().tolist() == [[i, t] for t in range(steps)]


def test_a_record_without_labels_is_refused() -> None:
    empty = (torch.zeros(4, 2), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="has no labels"):
        record_losses(Given(torch.zeros(2, 5, SIZE)), collate([empty, batch()[0]]))


def test_a_model_that_diverged_has_an_infinite_loss_and_no_excuse() -> None:
    scores = torch.zeros(2, 5, SIZE)
    scores[..., 7] = -torch.inf
    shortest = (torch.zeros(1, 2), torch.tensor([7]))  # as short as its label allows
    found = record_losses(Given(scores), collate([shortest, batch()[1]]))
    assert found.isinf().tolist() == [True, False]
