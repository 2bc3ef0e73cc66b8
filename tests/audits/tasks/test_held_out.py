import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from audits.tasks import Task
from audits.tasks.held_out import with_held_out_canaries


@pytest.fixture
def task() -> Task:
    numbers = TensorDataset(torch.arange(100.0)[:, None], torch.zeros(100, dtype=torch.int64))
    return Task(
        name="numbers",
        metric="acc",
        train=numbers,
        validation=numbers,
        test=numbers,
        model=lambda _seed: nn.Linear(1, 2),
        losses=lambda model, batch: nn.functional.cross_entropy(
            model(batch[0]), batch[1], reduction="none"
        ),
        evaluate=lambda _model, _records: 0.0,
        optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr),
        batch_size=10,
        epochs=1,
        lr=0.1,
        lrs=(0.1,),
    )


def test_a_fifth_stands_by_and_is_not_trained_on(task: Task) -> None:
    made = with_held_out_canaries(task, references=5)
    kept = {int(image) for image, _ in made.train}  # type: ignore[attr-defined]
    family = made.families["records"]
    drawn = {int(image) for image, _ in family.draw(20, np.random.default_rng(0))}
    assert (len(kept), len(drawn), family.references) == (80, 20, 5)
    assert kept | drawn == set(range(100))
    assert family.losses is task.losses


def test_which_fifth_is_fixed_and_the_draw_is_not(task: Task) -> None:
    first, again = (with_held_out_canaries(task, 5).families["records"] for _ in range(2))
    one = [int(image) for image, _ in first.draw(20, np.random.default_rng(0))]
    same = [int(image) for image, _ in again.draw(20, np.random.default_rng(0))]
    other = [int(image) for image, _ in first.draw(20, np.random.default_rng(1))]
    assert one == same != other
    assert sorted(one) == sorted(other)
    assert len(set(one)) == 20


def test_references_leave_half_for_canaries(task: Task) -> None:
    assert with_held_out_canaries(task, references=1000).families["records"].references == 10


def test_too_many_are_refused_with_the_way_out(task: Task) -> None:
    family = with_held_out_canaries(task, references=5).families["records"]
    with pytest.raises(ValueError, match="20 records standing by for canaries, and 21 are needed"):
        family.draw(21, np.random.default_rng(0))
