"""What the tests of training runs share."""

import pytest
import torch

from audits.tasks import Task
from dpclip.cli.tasks import task_of


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Task:
    config = {"task": "digits", "families": None, "batch_size": None}
    return task_of(config | {"epochs": 10, "references": 500})
