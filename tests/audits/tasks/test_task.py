import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import TensorDataset

from audits.tasks import digits
from audits.tasks.task import METRICS, scores


def first(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return model(batch[0])[:, 0]


def test_scores_are_in_the_order_of_the_records() -> None:
    records = TensorDataset(torch.arange(1300.0)[:, None])
    found = scores(nn.Identity(), records, first)
    assert found.dtype == np.float64
    assert found.tolist() == list(range(1300))


@pytest.mark.parametrize("training", [True, False])
def test_scores_are_of_eval_mode_which_is_put_back(training: bool) -> None:
    model = nn.Dropout(0.5).train(training)
    found = scores(model, TensorDataset(torch.ones(50, 1)), first)
    assert found.tolist() == [1.0] * 50
    assert model.training is training


def test_the_mode_is_put_back_after_an_error() -> None:
    model = nn.Dropout(0.5)
    with pytest.raises(IndexError):
        scores(model, TensorDataset(torch.ones(5)), first)
    assert model.training


def test_scores_take_lists_and_a_collate_function() -> None:
    def collate(records: list[float]) -> list[Tensor]:
        return [torch.tensor(records)[:, None]]

    assert scores(nn.Identity(), [3.0, 1.0], first, collate).tolist() == [3.0, 1.0]
    assert scores(nn.Identity(), [], first, collate).shape == (0,)


@torch.no_grad()
def alone(model: nn.Module, records: list[Tensor]) -> list[float]:
    return [float(model(record[None]).sum()) for record in records]


def padded(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)[..., 0].sum(1)


def ragged(lengths: list[int]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(n, 1, generator=draw) for n in lengths]


def pad(records: list[Tensor]) -> Tensor:
    return pad_sequence(records, batch_first=True)


def test_scores_of_records_cut_by_length_are_those_of_each_alone() -> None:
    draw = np.random.default_rng(0)
    records = ragged(draw.integers(1, 50, 700).tolist())
    made = dataclasses.replace(digits.task({}), collate=pad, length=len, physical_size=200)
    seen: list[Tensor] = []

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(batch)
        return padded(model, batch)

    model = nn.Linear(1, 1, bias=False)
    found = scores(model, records, losses, made.collate, made.parts(records))
    assert max(batch.shape[0] * batch.shape[1] for batch in seen) <= 200
    assert np.allclose(found, alone(model, records), atol=1e-5)
    assert np.allclose(found, scores(model, records, padded, pad), atol=1e-5)
    assert scores(model, [], padded, pad, made.parts([])).shape == (0,)


def test_parts_are_as_the_records_come_without_lengths() -> None:
    assert digits.task({}).parts(range(5), rows=2) == [[0, 1], [2, 3], [4]]


def test_which_way_is_better() -> None:
    made = digits.task({})
    assert made.metric == "acc"
    assert made.higher_is_better
    better = {m: dataclasses.replace(made, metric=m).higher_is_better for m in METRICS}
    assert {m for m, more in better.items() if more} == {"acc", "bleu", "chrf"}
    assert better.keys() == {"acc", "wer", "cer", "ppl", "bleu", "chrf"}


def test_what_a_task_measures_is_its_metric_and_what_comes_with_it() -> None:
    made = digits.task({})
    model = made.model(0)
    assert made.measured(model, made.test) == {"acc": made.evaluate(model, made.test)}
    several = dataclasses.replace(made, measures=lambda _m, data: {"acc": 0.5, "n": len(data)})
    assert several.measured(model, made.test) == {"acc": 0.5, "n": 227}


@pytest.mark.parametrize("wrong", [{"name": ""}, {"name": " "}, {"name": "a/b"}, {"metric": "f1"}])
def test_a_task_that_no_report_could_tell_of_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected one"):
        dataclasses.replace(digits.task({}), **wrong)  # type: ignore[arg-type]
