import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from audits.tasks.labelled import accuracy, places


def test_parts_are_disjoint_and_a_tenth_each_is_held() -> None:
    made = places(1000, None)
    assert [len(part) for part in made] == [800, 100, 100]
    assert sorted([*made.train, *made.validation, *made.pool]) == list(range(1000))
    assert [len(part) for part in places(20_000, None)] == [19_000, 500, 500]
    assert places(1000, None) == made
    assert made.train != sorted(made.train)


def test_a_limit_takes_training_records_away_and_nothing_else() -> None:
    whole, few = places(1000, None), places(1000, 30)
    assert few.train == whole.train[:30]
    assert few[1:] == whole[1:]
    assert places(1000, 5000) == whole


@pytest.mark.parametrize("limit", [0, -1])
def test_too_little_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"The limit is {limit} training records: expected at"):
        places(100, limit)
    with pytest.raises(ValueError, match="Found 9 training records, expected at least 10"):
        places(9, None)


def test_accuracy_counts_right_labels_of_every_batch() -> None:
    labels = torch.arange(1000) % 7
    logits = torch.eye(8)[labels]
    logits[900:] = torch.eye(8)[7]
    assert accuracy(nn.Dropout(0.9), TensorDataset(logits, labels)) == 0.9
